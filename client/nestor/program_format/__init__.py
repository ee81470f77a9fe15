"""The format of a program: a tuning problem as one JSON document and one safetensors file, without code.

    {"format": 3, "torch": "2.13", "hparams": {name: {"transform": …, "bounds": [low, high], "axes": …}},
     "graphs": {"prepare": graph, "forward": graph, "criterion": graph, "penalty": graph, "predict": graph,
                "val_loss": graph}, "metrics": {name: graph}}

`graphs` describes a graph, `values` what its operators take. Everything here is pure: no torch, no files, no network.
The server checks an upload with it, the engine writes and reads programs and kept traces with it, so that both refuse
a malformed document with the same sentence. What needs torch's schemas (operators and the types of their arguments)
is checked by the engine alone.
"""

from __future__ import annotations

from nestor.program_format.document import HyperparameterSpec as HyperparameterSpec
from nestor.program_format.document import ProgramDocument as ProgramDocument
from nestor.program_format.document import TensorNames as TensorNames
from nestor.program_format.document import parse_document as parse_document
from nestor.program_format.document import tensor_names as tensor_names
from nestor.program_format.document import write_document as write_document
from nestor.program_format.entry_names import MAX_AXES as MAX_AXES
from nestor.program_format.entry_names import UNNAMED as UNNAMED
from nestor.program_format.entry_names import Axis as Axis
from nestor.program_format.entry_names import EntryNames as EntryNames
from nestor.program_format.entry_names import flat_index as flat_index
from nestor.program_format.entry_names import labels as labels
from nestor.program_format.entry_names import multi_index as multi_index
from nestor.program_format.graphs import Call as Call
from nestor.program_format.graphs import Graph as Graph
from nestor.program_format.graphs import Region as Region
from nestor.program_format.graphs import graph_json as graph_json
from nestor.program_format.graphs import parse_graph as parse_graph
from nestor.program_format.limits import FORMAT as FORMAT
from nestor.program_format.limits import FUNCTIONS as FUNCTIONS
from nestor.program_format.limits import GRAPHS_FILE as GRAPHS_FILE
from nestor.program_format.limits import INDEX as INDEX
from nestor.program_format.limits import MAX_DOCUMENT_BYTES as MAX_DOCUMENT_BYTES
from nestor.program_format.limits import MAX_HEADER_BYTES as MAX_HEADER_BYTES
from nestor.program_format.limits import MAX_NAME as MAX_NAME
from nestor.program_format.limits import MAX_TRACE_BYTES as MAX_TRACE_BYTES
from nestor.program_format.limits import MAX_TRACE_NODES as MAX_TRACE_NODES
from nestor.program_format.limits import MAX_TRACE_VALUES as MAX_TRACE_VALUES
from nestor.program_format.limits import MAX_VALUES as MAX_VALUES
from nestor.program_format.limits import SPLITS as SPLITS
from nestor.program_format.limits import TENSOR_GROUPS as TENSOR_GROUPS
from nestor.program_format.limits import TENSORS_FILE as TENSORS_FILE
from nestor.program_format.limits import TRAINED_GROUPS as TRAINED_GROUPS
from nestor.program_format.limits import TRANSFORMS as TRANSFORMS
from nestor.program_format.limits import split_file as split_file
from nestor.program_format.limits import valid_name as valid_name
from nestor.program_format.untrusted_json import Json as Json
from nestor.program_format.untrusted_json import list_of as list_of
from nestor.program_format.untrusted_json import parse_json as parse_json
from nestor.program_format.untrusted_json import refused as refused
from nestor.program_format.values import CONSTANTS as CONSTANTS
from nestor.program_format.values import DEVICE as DEVICE
from nestor.program_format.values import Budget as Budget
from nestor.program_format.values import GraphValue as GraphValue
from nestor.program_format.values import Ref as Ref
from nestor.program_format.values import TorchConstant as TorchConstant
from nestor.program_format.values import leaves as leaves
