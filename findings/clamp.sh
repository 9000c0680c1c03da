#!/usr/bin/env bash
# The gradient of torch.clamp at its ends, and what it makes of MONAI's mutual information. Up to PyTorch 2.13 what lay
# exactly at an end had the whole gradient. In 2.14 it has none where the ends are numbers, and half of it where they
# are tensors. MONAI's loss clips images to 0 and 1, which images scaled by their least and largest touch: the same loss
# of the same images has another gradient at those voxels, the whole background of a masked head, say.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 2.13.0 2.14.1; do
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install -q --no-cache-dir "torch==$version" monai==1.6.1 numpy==2.4.6
    "$folder/venv/bin/python" - "$version" <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore")
import monai
import torch
from monai.losses import GlobalMutualInformationLoss

print("torch", torch.__version__, "monai", monai.__version__)
x = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
numbers, tensors = (
    torch.autograd.grad(torch.clamp(x, *ends).sum(), x)[0].tolist()
    for ends in ((0.0, 1.0), (torch.tensor(0.0), torch.tensor(1.0)))
)
print("gradient of clamp at 0, 0.5, 1: ends that are numbers", numbers, "tensors", tensors)
noise = torch.rand(2, 1, 1, 12, 12, 12, generator=torch.manual_seed(0))
image = (noise[0] - 0.3).clamp(min=0)
image = (image / image.max()).requires_grad_()
(gradient,) = torch.autograd.grad(GlobalMutualInformationLoss("gaussian", 23)(image, noise[1]), image)
inside = gradient[(image > 0) & (image < 1)].abs().mean()
ends = [float(gradient[image == end].abs().mean() / inside) for end in (0, 1)]
print("MONAI's loss: mean gradient of voxels of 0 and of 1 over that of the others", ends)
if sys.argv[1].startswith("2.13"):
    assert numbers == tensors == [1.0, 1.0, 1.0] and min(ends) > 0.1
else:
    assert numbers == [0.0, 1.0, 0.0] and tensors == [0.5, 1.0, 0.5] and ends == [0, 0]
PYTHON
done
