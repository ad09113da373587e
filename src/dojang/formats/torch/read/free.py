"""Functions of PyTorch that have no operator here and no multiply-accumulates either.

Counting does not need to know them: by its convention nothing is counted for element-wise arithmetic, activations,
comparisons, sorting, sums, look-ups, interpolation, normalisation and Fourier transforms, as ONNX's own `DFT` and
FlopCounterMode count none. Running does; there they are unknown.
"""

from __future__ import annotations

FREE = frozenset(
    # comparisons and logic
    "gt greater ge greater_equal lt less le less_equal eq ne not_equal logical_not logical_and logical_or logical_xor "
    "bitwise_not bitwise_and bitwise_or bitwise_xor and or xor invert rand ror rxor lshift rshift any all isnan isinf "
    "isfinite isclose isin signbit isposinf isneginf iand ior "
    # casts
    "to long int bool byte short char type type_as view cpu "
    # element by element
    "softshrink hardshrink threshold addcmul addcdiv lerp where remainder fmod mod rmod trunc fix frac exp2 expm1 log2 "
    "log10 tan asin acos atan arcsin arccos arctan atan2 arctan2 sinh cosh asinh acosh atanh erfc erfinv lgamma "
    "digamma logit sinc hypot copysign heaviside nan_to_num ldexp logaddexp square pow floor_divide floordiv "
    "rfloordiv sgn angle polar complex view_as_real view_as_complex real imag clamp clip clamp_min clamp_max "
    "prelu elu masked_fill masked_scatter div prod polygamma xlogy gcd "
    # order, sums along axes, look-ups
    "sort argsort msort topk kthvalue median nanmedian mode quantile argmax argmin aminmax cumsum cumprod cummax "
    "cummin logcumsumexp nansum nanmean count_nonzero diff unique unique_consecutive bincount histc searchsorted "
    "bucketize gather scatter scatter_add scatter_reduce index_add index_copy index_fill index_put index_reduce "
    "take take_along_dim getitem setitem index index_select embedding one_hot repeat_interleave sum mean max min "
    "amax amin std var std_mean var_mean "
    # layout
    "triu tril diag diagonal diag_embed diagflat rot90 meshgrid cartesian_prod tensor_split hsplit vsplit dsplit "
    "hstack vstack dstack atleast_1d atleast_2d atleast_3d as_strided expand repeat tile pad roll flip fliplr flipud "
    "unfold fold col2im im2col stack cat "
    # random numbers
    "rand randn randint randperm rand_like randn_like randint_like bernoulli normal uniform exponential multinomial "
    "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn "
    "fft_irfftn fft_hfft fft_ihfft fft_fftshift fft_ifftshift fft_fftfreq fft_rfftfreq stft istft "
    "zeros ones full empty zeros_like ones_like arange linspace "
    # layers
    "max_pool1d max_pool2d max_pool3d max_unpool1d max_unpool2d max_unpool3d fractional_max_pool2d lp_pool1d lp_pool2d "
    "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d batch_norm "
    "instance_norm group_norm layer_norm grid_sample grid_sampler interpolate upsample normalize roi_align roi_pool "
    "nms softmax softmin gumbel_softmax softplus norm vector_norm linalg_vector_norm linalg_norm matrix_norm".split()
)
"""By the name that reading gives a function, in any of its forms."""
