//! Kind `encode`: DDIM inversion, decoding, and interpolation between two images (the paper's appendix F).

use admiral::diffusion::{Denoising, Sampler, interpolate, interpolated_classifier_gradient};
use tch::Tensor;

use super::loops::{CLAMPED, GoldenNetwork, Loop, close_states, input};
use super::support::{Case, GRADIENT, Outcome, PASS, close};

/// The tolerance of states of the inversion.
const REVERSE: f64 = 1e-3;

pub fn check(case: &Case) -> Outcome {
    let mut sampler = Loop::read(&case.config)?;
    sampler.sampler = Sampler::DDIM;
    sampler.options.eta = 0.0;
    if case.config["reverse_clip_denoised"] != false {
        return Err("config: the inversion is checked without clipping only".into());
    }
    let network = GoldenNetwork::read(&case.config["model"], &case.salt)?;
    if case.tensors.contains_key("theta") {
        interpolation(case, &sampler, &network)
    } else {
        reconstruction(case, &sampler, &network)
    }
}

fn reconstruction(case: &Case, sampler: &Loop, network: &GoldenNetwork) -> Outcome {
    let labels = input(case, "y");
    let model = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, labels.as_ref(), None);
    let images = input(case, "x0").ok_or("the case has images")?;
    let (batch, last) = (images.size()[0] as usize, sampler.diffusion.num_timesteps() as i64 - 1);
    let mut state = images.shallow_clone();
    let states: Vec<Tensor> = (0..=last)
        .map(|t| {
            state = sampler.diffusion.ddim_reverse_sample(&model, &state, &vec![t; batch], Denoising::NONE).sample;
            state.shallow_clone()
        })
        .collect();
    let expected = case.tensor("reverse.step.x")?;
    close_states("reverse.step.x", &Tensor::stack(&states, 0), expected, REVERSE)?;
    let latent = sampler.diffusion.ddim_encode(&model, &images, Denoising::NONE);
    close("ddim_encode", &latent, &expected.get(last - 1), REVERSE)?;
    for (name, row) in [("decode.all", last), ("decode.skip_last", last - 1)] {
        let states = sampler.states(&model, &expected.get(row), None, None)?;
        close_states(&format!("{name}.step.x"), &states, case.tensor(&format!("{name}.step.x"))?, CLAMPED)?;
        close(name, &states.get(-1), case.tensor(name)?, CLAMPED)?;
    }
    Ok(())
}

fn interpolation(case: &Case, sampler: &Loop, network: &GoldenNetwork) -> Outcome {
    let input = |name: &str| input(case, name).ok_or_else(|| format!("the file holds no tensor {name}"));
    let classifier = GoldenNetwork::read(&case.config["classifier"], &case.salt)?;
    let logits = |x: &Tensor, timesteps: &Tensor| classifier.call(x, timesteps, None, None);
    let labels = [input("y.a")?, input("y.b")?];
    for (end, labels) in ["a", "b"].into_iter().zip(&labels) {
        let model = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, Some(labels), None);
        let latent = sampler.diffusion.ddim_encode(&model, &input(&format!("x0.{end}"))?, Denoising::NONE);
        close(&format!("latent.{end}"), &latent, case.tensor(&format!("latent.{end}"))?, REVERSE)?;
    }
    let embedding =
        |labels: &Tensor| network.network.class_embedding(&network.params, labels).ok_or("the network has classes");
    let (latents, embeddings) =
        ([input("latent.a")?, input("latent.b")?], [embedding(&labels[0])?, embedding(&labels[1])?]);
    let scales: Vec<f64> = serde_json::from_value(case.config["classifier_scales"].clone())
        .map_err(|error| format!("config: classifier_scales: {error}"))?;
    let thetas = Vec::<f64>::try_from(case.tensor("theta")?).map_err(|error| format!("theta: {error}"))?;
    for (i, &theta) in thetas.iter().enumerate() {
        let row = |name: &str| Ok::<_, String>(case.tensor(name)?.get(i as i64));
        let thetas = vec![theta; latents[0].size()[0] as usize];
        let classes = interpolate(&thetas, &embeddings[0], &embeddings[1]);
        close("class_embedding.theta", &classes, &row("class_embedding.theta")?, PASS)?;
        let latent = interpolate(&thetas, &latents[0], &latents[1]);
        close("latent.theta", &latent, &row("latent.theta")?, PASS)?;

        let gradient = |scale: f64, x: &Tensor, timesteps: &Tensor| {
            interpolated_classifier_gradient(&logits, [&labels[0], &labels[1]], &thetas, scale, x, timesteps)
        };
        let first = vec![sampler.diffusion.num_timesteps() as i64 - 1; thetas.len()];
        let first = sampler.diffusion.model_timesteps(&first, latent.device());
        close("guidance_gradient.theta", &gradient(1.0, &latent, &first), &row("guidance_gradient.theta")?, GRADIENT)?;

        let model = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, Some(&classes), None);
        for (j, &scale) in scales.iter().enumerate() {
            let guide = |x: &Tensor, timesteps: &Tensor| gradient(scale, x, timesteps);
            let decoded = sampler.states(&model, &row("latent.theta")?, None, Some(&guide))?.get(-1);
            let name = format!("decode.scale_{j}");
            close(&name, &decoded, &row(&name)?, CLAMPED).map_err(|error| format!("theta {theta:.2}: {error}"))?;
        }
    }
    Ok(())
}
