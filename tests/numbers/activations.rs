//! The bytes that a network keeps for backward: the count of `Network::memory` against the bytes that the system's
//! allocator gives out.

use admiral::model::{ExecutionMode, Inputs, ModelConfig, Network, Params, Pool, Task};
use admiral::ops::Kernels;
use admiral_plan::{Memory, Norms, Weights};
use tch::{Device, Kind, Tensor};

/// The bytes that the allocator has given out to this process, in its arenas and in separate mappings.
fn allocated() -> u64 {
    // SAFETY: it takes nothing and returns numbers.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

fn models() -> Vec<(&'static str, Task, ModelConfig)> {
    let base = ModelConfig {
        image_size: 32,
        num_channels: 64,
        num_res_blocks: 1,
        channel_mult: Some(vec![1.0, 2.0]),
        attention_resolutions: vec![16],
        num_head_channels: Some(32),
        num_classes: Some(5),
        ..ModelConfig::default()
    };
    let classifier = |pool| ModelConfig { pool, ..base.clone() };
    vec![
        ("adaptive norms", Task::Diffusion, base.clone()),
        ("dropout", Task::Diffusion, ModelConfig { dropout: 0.1, ..base.clone() }),
        ("plain norms", Task::Diffusion, ModelConfig { use_scale_shift_norm: false, ..base.clone() }),
        ("resampling by convolutions", Task::Diffusion, ModelConfig { resblock_updown: false, ..base.clone() }),
        ("rescaled residuals", Task::Diffusion, ModelConfig { rescale_residual: true, ..base.clone() }),
        ("the newer order", Task::Diffusion, ModelConfig { use_new_attention_order: true, ..base.clone() }),
        ("upsampler", Task::SuperResolution, ModelConfig { small_size: Some(8), ..base.clone() }),
        ("classifier, attention", Task::Classifier, classifier(Pool::Attention)),
        ("classifier, adaptive", Task::Classifier, classifier(Pool::Adaptive)),
        ("classifier, spatial_v2", Task::Classifier, classifier(Pool::SpatialV2)),
    ]
}

/// The bytes that the allocator gives out for one forward pass of `batch` images with gradients.
fn measure(network: &Network, specs: &admiral::model::ParamSpecs, config: &ModelConfig, half: bool, batch: i64) -> u64 {
    let kind = |torso| if half && torso { Kind::BFloat16 } else { Kind::Float };
    let options = (Kind::Float, Device::Cpu);
    let values = specs.iter().map(|spec| {
        let values = Tensor::randn(spec.shape.as_slice(), options) * 0.05;
        values.to_kind(kind(spec.torso)).set_requires_grad(true)
    });
    let params = Params::new(values.collect());
    let image = [batch, config.image_channels, config.image_size, config.image_size];
    let x = Tensor::randn(image, options);
    let timesteps = Tensor::arange(batch, options);
    let labels = Tensor::zeros([batch], (Kind::Int64, Device::Cpu));
    let small = config.small_size.map(|size| Tensor::randn([batch, config.image_channels, size, size], options));
    let inputs = Inputs { x: &x, timesteps: &timesteps, labels: Some(&labels), low_res: small.as_ref() };
    let kernels = Kernels::cpu();
    // The first pass also allocates what later passes share.
    drop(network.forward(&kernels, &params, &inputs, Some(1)));
    let before = allocated();
    let out = network.forward(&kernels, &params, &inputs, Some(1));
    let grown = allocated() - before;
    drop(out);
    grown
}

/// Runs [`measure_all_models`] in a process without other tests, because they allocate too.
#[test]
fn kept_activations_take_the_counted_bytes() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "activations::measure_all_models", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "kept_activations_take_the_counted_bytes runs it in a process without other tests"]
fn measure_all_models() {
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let batch = 8;
    for (name, task, config) in models() {
        for (half, use_checkpoint) in [(false, false), (true, false), (false, true), (true, true)] {
            let config = ModelConfig { use_checkpoint, ..config.clone() };
            let spec = config.spec(task, true).unwrap_or_else(|mistakes| panic!("{name}: {mistakes:?}"));
            let (network, specs) = Network::build(&spec);
            let layers = network.memory(ExecutionMode { half, norms: Norms::Fused, on_gpu: false });
            let weights = Weights { parameters: 0, torso: 0, half, num_emas: 0, float_sums: false };
            let counted = Memory::new(weights, &layers, use_checkpoint, false).activation_bytes() * batch as u64;
            let measured = measure(&network, &specs, &config, half, batch);
            let ratio = measured as f64 / counted as f64;
            let way = format!("{name}, half {half}, checkpointing {use_checkpoint}");
            println!("{way}: {counted} counted, {measured} measured, {ratio:.4}");
            // If few bytes are kept, tensor handles and graph nodes are a larger part.
            let tolerance = if use_checkpoint { 0.02 } else { 0.01 };
            assert!((ratio - 1.0).abs() < tolerance, "{way}: {counted} counted, {measured} measured");
        }
    }
}
