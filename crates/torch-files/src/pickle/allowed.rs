//! The names that a pickle may use.

use crate::dtype::Dtype;

/// A name that a state dict needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and its second version: storage, offset, shape, strides, and what training needs.
    RebuildTensor,
    /// Its third version, whose storage is bytes and whose seventh argument is the type.
    RebuildTypedTensor,
    /// `torch._utils._rebuild_parameter`: a tensor, and what training needs.
    RebuildParameter,
    /// The class of a storage; none for bytes without a type.
    Storage(Option<Dtype>),
    /// A type of values: `torch.float32`.
    Dtype(Dtype),
}

impl Allowed {
    /// What `module.name` is; none for everything that is not allowed.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTypedTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch" | "torch.storage", "UntypedStorage") => Some(Self::Storage(None)),
            ("torch" | "torch.cuda", class) if Dtype::of_storage(class).is_some() => {
                Some(Self::Storage(Dtype::of_storage(class)))
            }
            ("torch", name) => Dtype::of_torch(name).map(Self::Dtype),
            _ => None,
        }
    }
}
