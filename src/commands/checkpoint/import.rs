//! `admiral checkpoint import`: makes a checkpoint from a PyTorch file or from safetensors.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use admiral_checkpoint::{
    Catalog, Content, Parameter, Role, TensorView, TrainingState, find_checkpoint, identify, save,
};
use admiral_comm::Single;
use admiral_contract::files::open_to_read;
use admiral_storage::{CloudSettings, Location, Store};
use admiral_torch_files::StateDict;
use clap::Args;
use serde_json::json;

use crate::run_config::{PrecisionMode, RunConfig, group_digits};
use crate::train::{parameters, roles};

use super::error::ToolError;
use super::options::options_of;
use super::print::{print, print_json};
use super::recognise::{Model, Shapes, recognise};

/// The options of `admiral checkpoint import`.
#[derive(Debug, Args)]
pub struct ImportOptions {
    /// The weights: a plain state dict of torch.save, old or new, or safetensors
    file: PathBuf,
    /// The folder of checkpoints to make, which must have none yet: a path or a bucket's URL
    #[arg(value_name = "PLACE")]
    location: String,
    /// The network's configuration, if not exactly one known configuration fits: a name such as lsun-cat, or a YAML
    /// file
    #[arg(long, value_name = "NAME|YAML")]
    config: Option<String>,
    /// Write only the weights, for sampling, without the optimizer state that training needs
    #[arg(long)]
    weights_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &ImportOptions, clouds: &CloudSettings) -> Result<(), ToolError> {
    let name = options.file.display().to_string();
    let refuse = |error: &dyn std::fmt::Display| ToolError::Refused(format!("{name}: {error}"));
    let location = Location::parse(&options.location)?;
    let file = open_to_read(&options.file).map_err(|error| refuse(&error))?;
    let mut state = StateDict::open(file).map_err(|error| refuse(&error))?;
    let prefix = wrapper_prefix(state.tensors().iter().map(|tensor| tensor.name.as_str()));
    let shapes: Shapes =
        state.tensors().iter().map(|tensor| (tensor.name[prefix.len()..].to_owned(), tensor.shape.clone())).collect();
    let model = recognise(&name, &shapes, options.config.as_deref())?;
    let parameters = parameters(&model.specs);
    let values = read(&mut state, &prefix, &parameters).map_err(|error| refuse(&error))?;
    if !prefix.is_empty() {
        tracing::warn!(
            "{name}: all names begin with {prefix}, which PyTorch's wrappers of modules add; it is left out"
        );
    }
    let not_finite = num_not_finite(&parameters, &values);
    if let Some((first, count)) = &not_finite {
        tracing::warn!(
            "{name}: {count} values are NaN or infinite, the first of them in {first}; samples from these weights will \
             be too"
        );
    }

    let store = Store::create(&location, &options_of(clouds))?;
    if let Some(step) = Catalog::new(&store).steps()?.first() {
        return Err(ToolError::Refused(format!(
            "{} has checkpoints already (the first of step {step}); import into an empty folder",
            store.url("")
        )));
    }
    let roles = roles_to_write(&model.config, options.weights_only);
    let zeros = vec![0.0; values.iter().map(Vec::len).max().unwrap_or(0)];
    let views: Vec<TensorView> = roles
        .iter()
        .flat_map(|&role| parameters.iter().zip(&values).map(move |(parameter, values)| (role, parameter, values)))
        .map(|(role, Parameter { name, shape }, values)| {
            let is_moment = matches!(role, Role::AdamMean | Role::AdamVariance);
            TensorView { role, name, shape, values: if is_moment { &zeros[..values.len()] } else { values } }
        })
        .collect();
    let content = content(&model, parameters.clone())?;
    let manifest = save(&store, &Single, &content, &views)?;
    let checkpoint = find_checkpoint(&options.location, &options_of(clouds))?.url();
    let num_values: usize = values.iter().map(Vec::len).sum();
    let roles: Vec<String> = manifest.roles().iter().map(Role::to_string).collect();
    if options.json {
        return print_json(&json!({
            "file": name,
            "model": model.name,
            "task": model.config.task,
            "tensors": parameters.len(),
            "values": num_values,
            "values_not_finite": not_finite.map_or(0, |(_, count)| count),
            "checkpoint": checkpoint,
            "roles": roles,
        }));
    }
    print(&format!(
        "{name} is {} ({}): {} tensors, {} values\n{checkpoint}: {}\n",
        model.name,
        model.config.task.name(),
        parameters.len(),
        group_digits(num_values as u64),
        roles.join(", ")
    ))
}

/// Returns the prefixes that PyTorch's wrappers of modules have put before all names: `DataParallel` and
/// `DistributedDataParallel` put `module.`, `torch.compile` puts `_orig_mod.`. Empty if there are none.
fn wrapper_prefix<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut prefix = String::new();
    loop {
        let longer = ["module.", "_orig_mod."].map(|part| format!("{prefix}{part}"));
        let is_common =
            |longer: &String| names.clone().next().is_some() && names.clone().all(|name| name.starts_with(longer));
        match longer.into_iter().find(is_common) {
            Some(longer) => prefix = longer,
            None => return prefix,
        }
    }
}

/// Returns the number of values that are NaN or infinite, and the first parameter that has any. `None` if there are none.
fn num_not_finite(parameters: &[Parameter], values: &[Vec<f32>]) -> Option<(String, usize)> {
    let count = |values: &Vec<f32>| values.iter().filter(|value| !value.is_finite()).count();
    let first = values.iter().position(|values| count(values) > 0)?;
    Some((parameters[first].name.clone(), values.iter().map(count).sum()))
}

/// Reads the values of every parameter, in order. All names in the file begin with `prefix`.
fn read(state: &mut StateDict<File>, prefix: &str, parameters: &[Parameter]) -> Result<Vec<Vec<f32>>, String> {
    let indices: HashMap<String, usize> = state
        .tensors()
        .iter()
        .enumerate()
        .map(|(index, tensor)| (tensor.name[prefix.len()..].to_owned(), index))
        .collect();
    let mut all = Vec::with_capacity(parameters.len());
    for parameter in parameters {
        let index = *indices.get(&parameter.name).ok_or_else(|| format!("it lacks {}", parameter.name))?;
        let tensor = &state.tensors()[index];
        let dtype = tensor.dtype;
        let mut values = vec![0.0; tensor.num_elements()];
        let rounded = state.read_f32(index, &mut values).map_err(|error| error.to_string())?;
        if rounded > 0 {
            return Err(format!(
                "{} is {dtype:?}, and {rounded} of its {} values are not exact in float32; round them in Python with \
                 .float()",
                parameter.name,
                values.len()
            ));
        }
        all.push(values);
    }
    Ok(all)
}

/// Returns all roles that training needs, or only the first average, which is enough for sampling.
fn roles_to_write(config: &RunConfig, weights_only: bool) -> Vec<Role> {
    let rates = &config.optimizer.ema_rates;
    match (weights_only, rates.first()) {
        (false, _) => roles(rates),
        (true, Some(&rate)) => vec![Role::Ema { rate }],
        (true, None) => vec![Role::Master],
    }
}

/// Returns the content of a checkpoint before the first step.
fn content(model: &Model, parameters: Vec<Parameter>) -> Result<Content, ToolError> {
    let config = &model.config;
    let is_scaled = config.precision.mode == PrecisionMode::Fp16;
    Ok(Content {
        writer: identify(None, &Single)?,
        task: config.task.name().to_owned(),
        configuration: serde_json::to_value(config).map_err(|error| ToolError::Refused(error.to_string()))?,
        training: TrainingState {
            step: 0,
            next_sample_index: 0,
            optimizer_steps: 0,
            lg_loss_scale: is_scaled.then(|| config.precision.effective_initial_lg_loss_scale(config.task)),
            timestep_sampler: None,
            images: None,
        },
        parameters: Arc::new(parameters),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_wrappers_are_found_only_if_all_names_have_them() {
        let prefix = |names: &[&str]| wrapper_prefix(names.iter().copied());
        assert_eq!(prefix(&["module.out.weight", "module.out.bias"]), "module.");
        assert_eq!(prefix(&["_orig_mod.module.a", "_orig_mod.module.module.b"]), "_orig_mod.module.");
        assert_eq!(prefix(&["module.a", "b"]), "");
        assert_eq!(prefix(&["modules.a"]), "");
        assert_eq!(prefix(&[]), "");
    }

    #[test]
    fn values_that_are_not_finite_are_counted() {
        let parameter = |name: &str| Parameter { name: name.into(), shape: vec![2] };
        let parameters = [parameter("a"), parameter("b")];
        assert_eq!(num_not_finite(&parameters, &[vec![1.0, 2.0], vec![0.0, -1.0]]), None);
        let found = num_not_finite(&parameters, &[vec![1.0, 2.0], vec![f32::NAN, f32::INFINITY]]);
        assert_eq!(found, Some(("b".to_owned(), 2)));
    }
}
