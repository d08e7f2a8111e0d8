"""Operations that XLA alone does not do well. This package does not depend on the rest of the project."""

from kernels.deform_conv import default_implementation, modulated_deform_conv

__all__ = ["default_implementation", "modulated_deform_conv"]
