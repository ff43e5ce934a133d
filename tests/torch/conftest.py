"""Without a GPU the kernels run in Triton's interpreter, which has to be known before anything imports Triton."""

import contextlib
import os

with contextlib.suppress(ImportError):
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
