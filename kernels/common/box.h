// What averages and sums over boxes find outside the image.
#pragma once

namespace l2rfast {

// Its border voxel again, or 0 (which counts in the average), or, extended, what the passes before it made of a border
// that was repeated before all of them.
enum class Outside { border, zero, extended };

}  // namespace l2rfast
