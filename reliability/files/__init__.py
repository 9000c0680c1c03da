"""Files that were damaged, or made to harm: every reader reads them, or says in one sentence that it does not.

`targets` lists what is read from outside, `mutations` damages it, `attempt` reads it and judges what came of that,
`run` does so in processes that may die, and `minimise` looks for the smallest damage that still fails.
"""
