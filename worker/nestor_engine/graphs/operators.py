"""The operators a program or a kept trace may call, by name: arithmetic on tensors and on sizes, and nothing else.

It is a list of what is allowed, because every version of torch adds operators. Excluded on purpose are,
among others: operators that open files (`from_file`, `save`), that change the memory of a tensor
(`set_`, `resize_`, `as_strided`, every `out=` variant), that expose uninitialized memory (`empty`:
exports use `zeros`), that change the process (`manual_seed`), that leave the graph (`item`), and every
private operator that is not listed here.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard, cast

import torch
from torch._ops import HigherOrderOperator as HigherOrderOperator  # torch exports neither
from torch._ops import OpOverload as OpOverload


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


POINTWISE = _words("""
    abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan
    atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp
    clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fix
    float_power floor floor_divide fmod frac ge gelu greater greater_equal gt hardsigmoid hardswish hardtanh heaviside
    hypot i0 ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2 logical_and logical_not logical_or
    logical_xor logit lt mish mul multiply mvlgamma nan_to_num ne neg negative not_equal polygamma pow rad2deg
    reciprocal relu relu6 remainder round rsqrt selu sgn sigmoid sign silu sin sinc sinh sqrt square sub subtract tan
    tanh threshold true_divide trunc xlogy
""")

POINTWISE_ONLY_NEW = _words("""
    __and__ __or__ __xor__ angle fmax fmin glu hardshrink isclose isfinite isin isinf isnan isneginf isposinf
    log_sigmoid logaddexp logaddexp2 maximum minimum positive prelu rsub signbit softplus softshrink special_digamma
    special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1
    special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_logit
    special_ndtr special_ndtri special_polygamma special_psi special_round special_sinc special_xlog1py special_xlogy
    special_zeta where real imag conj resolve_conj resolve_neg view_as_real view_as_complex complex polar
""")

REDUCTIONS = _words("""
    all amax amin aminmax any argmax argmin argsort bincount bucketize count_nonzero cummax cummin cumprod cumsum
    cumulative_trapezoid diff dist histc kthvalue logcumsumexp logsumexp max mean median min mode msort nanmean
    nanmedian nanquantile nansum norm prod quantile searchsorted sort special_logsumexp std std_mean sum sum_to_size
    topk trace trapezoid trapz var var_mean
""")

SHAPES = _words("""
    adjoint alias atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cat chunk
    clone column_stack combinations concat concatenate constant_pad_nd contiguous detach diag diag_embed diagflat
    diagonal diagonal_scatter dsplit dstack expand expand_as flatten flip fliplr flipud hsplit hstack lift_fresh
    lift_fresh_copy mH mT matrix_H meshgrid moveaxis movedim narrow numpy_T pad _pad_circular permute ravel repeat
    repeat_interleave reshape reshape_as roll rot90 row_stack select select_scatter slice slice_scatter split
    split_with_sizes squeeze stack swapaxes swapdims t take take_along_dim tensor_split tile to _to_copy transpose
    tril triu type_as unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze _unsafe_view
    view view_as vsplit vstack
""")

INDEXING = _words("""
    gather index index_add index_copy index_fill index_put index_reduce index_select masked_fill masked_scatter put
    scatter scatter_add scatter_reduce
""")

CREATION = _words("""
    arange eye full full_like linspace logspace new_full new_ones new_zeros ones ones_like scalar_tensor tril_indices
    triu_indices zeros zeros_like bartlett_window blackman_window hamming_window hann_window kaiser_window one_hot
    vander
""")

RANDOM = _words("""
    alpha_dropout bernoulli binomial dropout exponential feature_alpha_dropout feature_dropout multinomial
    native_dropout normal poisson rand rand_like randint randint_like randn randn_like randperm rrelu uniform
""")

LINEAR_ALGEBRA = _words("""
    addbmm addmm addmv addr baddbmm bilinear bmm cdist _euclidean_dist chain_matmul cholesky_inverse cholesky_solve
    corrcoef cov cross dot einsum frobenius_norm ger inner inverse kron linalg_cholesky linalg_cross linalg_det
    linalg_diagonal linalg_eigh linalg_eigvalsh linalg_householder_product linalg_inv linalg_matmul
    linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_multi_dot linalg_norm linalg_pinv linalg_qr
    linalg_slogdet linalg_solve linalg_solve_triangular linalg_svd linalg_svdvals linalg_vecdot linalg_vector_norm
    linear logdet matmul matrix_exp matrix_power mm mv nuclear_norm outer pdist pinverse renorm slogdet tensordot
    vdot fft_fft fft_fft2 fft_fftn fft_fftfreq fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft
    fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn fft_rfftfreq stft istft
""")

NETWORKS = _words("""
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d affine_grid_generator avg_pool1d avg_pool2d avg_pool3d batch_norm channel_shuffle col2im
    conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution cosine_similarity
    embedding embedding_bag grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell im2col instance_norm
    layer_norm log_softmax lstm lstm_cell max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices native_batch_norm native_group_norm native_layer_norm pairwise_distance
    pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell _safe_softmax
    scaled_dot_product_attention softmax special_log_softmax special_softmax upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d _weight_norm binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss
    cross_entropy_loss ctc_loss hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss
    multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d nll_loss_nd poisson_nll_loss smooth_l1_loss
    soft_margin_loss triplet_margin_loss
""")

# These write into a tensor of the graph; none can change its memory or its size.
IN_PLACE = _words("""
    addbmm_ addmm_ addmv_ alpha_dropout_ baddbmm_ bernoulli_ copy_ cumprod_ cumsum_ detach_ dropout_ exponential_
    feature_alpha_dropout_ feature_dropout_ fill_ fill_diagonal_ index_add_ index_copy_ index_fill_ index_put_
    log_normal_ masked_fill_ masked_scatter_ normal_ random_ renorm_ rrelu_ scatter_ scatter_add_ scatter_reduce_
    squeeze_ swapaxes_ swapdims_ t_ transpose_ tril_ triu_ uniform_ unsqueeze_ zero_
""")

ALLOWED = frozenset(
    [
        *(*POINTWISE, *POINTWISE_ONLY_NEW, *(f"{name}_" for name in POINTWISE), *IN_PLACE),
        *(*REDUCTIONS, *SHAPES, *INDEXING, *CREATION, *RANDOM, *LINEAR_ALGEBRA, *NETWORKS),
    ]
)
SIZES_OF_TENSORS = frozenset({"aten.sym_size.int", "aten.sym_numel.default", "aten.sym_stride.int"})

# Arithmetic on sizes, which are numbers by the time that a graph runs: name → (function, arity).
_torch: Any = torch  # which does not type its functions of sizes
SIZES: dict[str, tuple[Callable[..., Any], int]] = {
    **{
        f"operator.{name}": (getattr(operator, name), 2)
        for name in _words("add sub mul floordiv truediv mod eq ne lt le gt ge and_ or_")
    },
    "operator.neg": (operator.neg, 1),
    "math.ceil": (math.ceil, 1),
    "math.floor": (math.floor, 1),
    "math.trunc": (math.trunc, 1),
    "torch.sym_float": (_torch.sym_float, 1),
    "torch.sym_int": (_torch.sym_int, 1),
    "torch.sym_ite": (_torch.sym_ite, 3),
    "torch.sym_max": (_torch.sym_max, 2),
    "torch.sym_min": (_torch.sym_min, 2),
    "torch.sym_not": (_torch.sym_not, 1),
}
GETITEM = "operator.getitem"

# Every string option of an allowed operator. Equations of einsum have a grammar instead.
WORDS = frozenset(
    _words("""
    none tanh trunc floor same valid constant reflect replicate circular add multiply sum prod mean amax amin ij xy
    left right fro nuc reduced complete r forward backward ortho L U linear lower higher midpoint nearest
""")
)
EINSUM = re.compile(r"[A-Za-z., ]{1,200}(->[A-Za-z., ]{0,100})?")

_NAME = re.compile(r"aten\.(\w{1,64})\.(\w{1,64})", re.ASCII)


@dataclass(frozen=True)
class OperatorArgument:
    """One parameter of an operator: its type as torch's schema language writes it."""

    name: str
    type: str
    required: bool
    keyword_only: bool
    length: int | None  # of a list of fixed length, which may be given as one number


@dataclass(frozen=True)
class AtenOperator:
    """An allowed operator with its schema in torch. It is not a curvature's `Operator`."""

    name: str
    target: OpOverload[..., Any]
    arguments: tuple[OperatorArgument, ...]
    returns: tuple[str, ...]

    @property
    def base(self) -> str:
        """The name without its overload."""
        return self.name.split(".")[1]


@cache
def lookup(name: str) -> AtenOperator | None:
    """The operator `aten.<base>.<overload>` for a program; None if it is unknown or not allowed."""
    match = _NAME.fullmatch(name)
    if match is None or not (match[1] in ALLOWED or name in SIZES_OF_TENSORS):
        return None
    operator = _operator(name)
    if operator is None:
        return None
    # Some names have overloads for TorchScript's strings and lists, too; those return no tensor.
    returns = operator.returns
    if not returns or not (name in SIZES_OF_TENSORS or {"Tensor", "List[Tensor]"}.issuperset(returns)):
        return None
    return None if any(argument.is_out for argument in schema_of(operator.target).arguments) else operator


# Saved traces may call the derivatives of the operators of programs, too, whose kernels trust autograd: see
# `derivative_guards`. Most are named after their operator,
_DERIVATIVE = re.compile(r"_?(\w+?)_(forward|backward|backward_data)")
# and the others are these, into which torch divides some operators when it differentiates them.
DERIVATIVES = _words("""
    _adaptive_avg_pool2d _log_softmax _prelu_kernel _prelu_kernel_backward _softmax embedding_dense_backward
    cudnn_batch_norm cudnn_batch_norm_backward
""")
# Dropout's backward allocates with it, and fills the memory at once.
ALLOCATIONS = frozenset({"aten.empty_like.default"})


@cache
def of_trace(name: str) -> AtenOperator | None:
    """The operator of this name for a saved trace; None if it is unknown or not allowed."""
    if (operator := lookup(name)) is not None:
        return operator
    match = _NAME.fullmatch(name)
    if match is None or not (match[1] in DERIVATIVES or _is_derivative(match[1]) or name in ALLOCATIONS):
        return None
    operator = _operator(name)
    if operator is None or schema_of(operator.target).is_mutable:
        return None
    return operator if {"Tensor", "List[Tensor]"}.issuperset(operator.returns) else None


def _is_derivative(base: str) -> bool:
    match = _DERIVATIVE.fullmatch(base)
    return match is not None and match[1] in ALLOWED


def is_operator(target: object) -> TypeGuard[OpOverload[..., Any]]:
    """Whether the target of a node is an operator of the dispatcher."""
    return isinstance(target, OpOverload)


def schema_of(target: OpOverload[..., Any]) -> torch.FunctionSchema:
    """The names, types and aliases of an operator's arguments and results."""
    return target._schema  # pyright: ignore[reportPrivateUsage] torch shows it nowhere else


def _is_of_torchscript(overload: str) -> bool:
    """Overloads that Python does not call: `to.prim_dtype` takes any integer as a dtype, and `random_.from` is not one
    that Python can write.
    """
    return overload.startswith("prim_") or keyword.iskeyword(overload)


def _operator(name: str) -> AtenOperator | None:
    """Torch's operator `aten.<base>.<overload>`, allowed or not."""
    _, base, overload = name.split(".")
    packet = getattr(torch.ops.aten, base, None)
    if packet is None or overload not in packet.overloads() or _is_of_torchscript(overload):
        return None
    target = getattr(packet, overload)
    schema = schema_of(target)
    arguments = tuple(
        OperatorArgument(
            name=argument.name,
            type=str(argument.real_type),
            required=not argument.has_default_value(),
            keyword_only=argument.kwarg_only,
            length=argument.N,
        )
        for argument in cast("list[Any]", schema.arguments)  # whose annotations leave out N
    )
    return AtenOperator(name, target, arguments, tuple(str(returned.real_type) for returned in schema.returns))
