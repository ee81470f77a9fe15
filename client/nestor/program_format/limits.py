"""The names and bounds that a program and its data keep to, wherever they are read."""

from __future__ import annotations

FORMAT = 4  # version of the document; format 3 has no priors, and format 2 no names of entries
FUNCTIONS = ("prepare", "forward", "criterion", "penalty", "predict", "val_loss")
# In format 1, `evaluate` computes means over a batch in place of the last two, and of the metrics.
FUNCTIONS_OF_FORMAT_1 = ("prepare", "forward", "criterion", "penalty", "evaluate")
TRANSFORMS = ("identity", "exp", "sigmoid", "softplus")
BY_POSITION = ("weights", "values")  # what entries for training examples are: weights of their losses, or other values

# A tensor's key in the file is its group, a dot, and its name.
TENSOR_GROUPS = ("params", "buffers", "hparams", "constants")
# These are trained or tuned, so they are finite floating-point numbers. The others may hold infinities, as masks do.
TRAINED_GROUPS = ("params", "hparams")

SPLITS = ("train", "val", "test")
INDEX = "index"  # reserved column: a batch holds its examples' positions under this name

GRAPHS_FILE = "graphs.json"
TENSORS_FILE = "program.safetensors"

MAX_DOCUMENT_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 16 * 2**20  # of a safetensors file
MAX_TENSORS = 100_000  # of a safetensors file
MAX_JSON_LEVELS = 128
MAX_NODES = 100_000  # of all functions together
MAX_VALUES = 2_000_000  # arguments, and entries of lists and dicts, of all functions together
MAX_VALUE_LEVELS = 16  # lists in lists
MAX_REGION_LEVELS = 8  # regions in regions
MAX_NAME = 256  # characters

# A kept trace holds the derivatives, too, which take more operators than the function.
MAX_TRACE_BYTES = 256 * 2**20
MAX_TRACE_NODES = 1_000_000
MAX_TRACE_VALUES = 10_000_000


def split_file(split: str) -> str:
    """The file that holds the columns of one split."""
    return f"data-{split}.safetensors"


def valid_name(name: object) -> bool:
    """Whether `name` may name a parameter, a column, a metric or a hyperparameter in a program."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() and not set(name) & set("\"'`\\")
