//! Reference implementations of the operations in float64, from their definitions.

use admiral_gpu::group_norm::{Activation, Dropout, GroupNorm, Layout};

/// The inputs of a group normalization. `x` and `dy` have the layout of the `GroupNorm`.
pub struct Inputs {
    pub x: Vec<f64>,
    pub dy: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
    pub modulation: Option<(Vec<f64>, Vec<f64>)>,
}

/// The outputs of a group normalization. `y` and `dx` have the layout of the `GroupNorm`.
pub struct Outputs {
    pub y: Vec<f64>,
    pub mean: Vec<f64>,
    pub rstd: Vec<f64>,
    pub dx: Vec<f64>,
    pub dweight: Vec<f64>,
    pub dbias: Vec<f64>,
    pub dscale: Vec<f64>,
    pub dshift: Vec<f64>,
}

/// Returns the index of an element in memory.
pub fn index(norm: &GroupNorm, sample: usize, channel: usize, position: usize) -> usize {
    match norm.layout {
        Layout::ChannelsLast => (sample * norm.spatial + position) * norm.channels + channel,
        Layout::Contiguous => (sample * norm.channels + channel) * norm.spatial + position,
    }
}

/// Returns the factor of an element. Philox with the counter (index / 8, offset) gives eight numbers of 16 bits.
pub fn mask(dropout: &Dropout, index: usize) -> f64 {
    let counter = (index / 8) as u64;
    let words = philox(
        [counter as u32, (counter >> 32) as u32, dropout.offset as u32, (dropout.offset >> 32) as u32],
        [dropout.seed as u32, (dropout.seed >> 32) as u32],
    );
    let bits = words[index % 8 / 2] >> (16 * (index % 2)) & 0xffff;
    if bits < dropout.drop_below() { 0.0 } else { 65536.0 / f64::from(65536 - dropout.drop_below()) }
}

/// Philox4x32-10.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Computes forward and backward.
pub fn group_norm(norm: &GroupNorm, inputs: &Inputs) -> Outputs {
    let GroupNorm { batch, channels, spatial, groups, .. } = *norm;
    let width = channels / groups;
    let mut out = Outputs {
        y: vec![0.0; inputs.x.len()],
        mean: vec![0.0; batch * groups],
        rstd: vec![0.0; batch * groups],
        dx: vec![0.0; inputs.x.len()],
        dweight: vec![0.0; channels],
        dbias: vec![0.0; channels],
        dscale: vec![0.0; batch * channels],
        dshift: vec![0.0; batch * channels],
    };
    let count = (width * spatial) as f64;
    for sample in 0..batch {
        for group in 0..groups {
            let all = || {
                (group * width..(group + 1) * width)
                    .flat_map(|channel| (0..spatial).map(move |position| (channel, position)))
            };
            let at = |(channel, position)| index(norm, sample, channel, position);
            let mean = all().map(|i| inputs.x[at(i)]).sum::<f64>() / count;
            let variance = all().map(|i| (inputs.x[at(i)] - mean).powi(2)).sum::<f64>() / count;
            let rstd = 1.0 / (variance + f64::from(norm.eps)).sqrt();
            out.mean[sample * groups + group] = mean;
            out.rstd[sample * groups + group] = rstd;

            // The gradients of the normalized x.
            let mut gradients = Vec::new();
            for (channel, position) in all() {
                let i = index(norm, sample, channel, position);
                let normalized = (inputs.x[i] - mean) * rstd;
                let affine = normalized * inputs.weight[channel] + inputs.bias[channel];
                let row = sample * channels + channel;
                let (scale, shift) =
                    inputs.modulation.as_ref().map_or((0.0, 0.0), |(scale, shift)| (scale[row], shift[row]));
                let z = affine * (1.0 + scale) + shift;
                let kept = match &norm.activation {
                    Activation::SiluDropout(dropout) => mask(dropout, i),
                    Activation::None | Activation::Silu => 1.0,
                };
                let gate = 1.0 / (1.0 + (-z).exp());
                let (value, slope) = match norm.activation {
                    Activation::None => (z, 1.0),
                    Activation::Silu | Activation::SiluDropout(_) => (z * gate, gate * (1.0 + z * (1.0 - gate))),
                };
                out.y[i] = value * kept;
                let dz = inputs.dy[i] * kept * slope;
                out.dshift[row] += dz;
                out.dscale[row] += dz * affine;
                out.dweight[channel] += dz * (1.0 + scale) * normalized;
                out.dbias[channel] += dz * (1.0 + scale);
                gradients.push((i, normalized, dz * (1.0 + scale) * inputs.weight[channel]));
            }
            let mean_gradient = gradients.iter().map(|(_, _, g)| g).sum::<f64>() / count;
            let mean_product = gradients.iter().map(|(_, n, g)| n * g).sum::<f64>() / count;
            for (i, normalized, g) in gradients {
                out.dx[i] = rstd * (g - mean_gradient - normalized * mean_product);
            }
        }
    }
    out
}
