//! The names that a pickle may use.

use crate::dtype::Dtype;

/// A name that the pickle of a state dict may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, shape, strides, two arguments that are
    /// ignored, and metadata.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, whose storage is untyped and whose seventh argument is the data type. Metadata
    /// follow.
    RebuildTypedTensor,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`: a tensor, and arguments that are ignored,
    /// the Python attributes of the parameter among them.
    RebuildParameter,
    /// The class of a storage; `None` for untyped bytes.
    Storage(Option<Dtype>),
    /// A data type: `torch.float32`.
    Dtype(Dtype),
}

impl Allowed {
    /// Returns the meaning of `module.name`, or `None` if the name is not allowed.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTypedTensor),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Some(Self::RebuildParameter),
            ("torch" | "torch.storage", "UntypedStorage") => Some(Self::Storage(None)),
            ("torch" | "torch.cuda", class) if Dtype::of_storage(class).is_some() => {
                Some(Self::Storage(Dtype::of_storage(class)))
            }
            ("torch", name) => Dtype::of_torch(name).map(Self::Dtype),
            _ => None,
        }
    }
}
