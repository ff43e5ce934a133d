"""hemspec's benchmark: the same small training in every framework, with every loss.

It answers two questions. Do the backends agree? With the same initial weights and the same batches, the losses of the
first steps must be equal to float32 accuracy. And what does one get? Test accuracies with their standard errors,
training curves and times, all in one table, one JSON file and one self-contained page.

Nothing in `hemspec` or its backends imports this package.
"""
