//! Measures the memory bandwidth of the kernels: `cargo run --release -p admiral-gpu --example bandwidth`.
//!
//! Each line has the time of one call, the bytes that must be moved (every input and every output once), and the ratio
//! to the bytes that a copy moves in the same time. If a kernel reads an input twice, the end of the line has the ratio
//! with that counted too. The shapes are those of the paper's 64 x 64 network, batch 64, in half precision.

use std::error::Error;
use std::sync::Arc;

use admiral_gpu::adam::{AdamHyper, AdamMemory, adam};
use admiral_gpu::cache::KernelCache;
use admiral_gpu::driver::{Device, DeviceMemory, Driver, DriverError, Event, Stream};
use admiral_gpu::group_norm::{Activation, Backward, Dropout, Forward, GroupNorm, Layout};
use admiral_gpu::kernels::Kernels;
use admiral_gpu::library::SearchPath;
use admiral_gpu::norms::{num_partials, sum_of_squares};
use admiral_gpu::{GpuEnvironment, Kind, Launch};

type Outcome<T> = Result<T, Box<dyn Error>>;

const CALLS: usize = 50;

/// The bytes of one call.
struct Bytes {
    /// The bytes that must be moved: every input and every output once.
    needed: usize,
    /// The bytes that the kernel accesses, if they are more. Caches may serve some of them.
    accessed: Option<usize>,
}

impl Bytes {
    fn once(needed: usize) -> Self {
        Self { needed, accessed: None }
    }
}

struct Bench {
    device: Arc<Device>,
    stream: Stream,
    /// The bytes per second of a copy, reads and writes together.
    copy: f64,
}

impl Bench {
    /// Returns the seconds of one call, after a warm-up.
    fn seconds(&self, mut call: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
        for _ in 0..5 {
            call()?;
        }
        let (start, end) = (Event::new(&self.device, true)?, Event::new(&self.device, true)?);
        // SAFETY: the stream lives.
        unsafe { start.record(self.stream.handle())? };
        for _ in 0..CALLS {
            call()?;
        }
        // SAFETY: as above.
        unsafe { end.record(self.stream.handle())? };
        self.stream.synchronize()?;
        Ok(end.seconds_since(&start)? / CALLS as f64)
    }

    fn report(&self, what: &str, bytes: Bytes, call: impl FnMut() -> Outcome<()>) -> Outcome<()> {
        let seconds = self.seconds(call)?;
        let part = |bytes: usize| bytes as f64 / seconds / self.copy * 100.0;
        let (time, megabytes) = (seconds * 1e6, bytes.needed as f64 / 1e6);
        print!("{what:64} {time:9.1} us {megabytes:9.1} MB {:6.1} % of a copy", part(bytes.needed));
        match bytes.accessed {
            Some(accessed) => println!(" ({:.1} % with what is read again)", part(accessed)),
            None => println!(),
        }
        Ok(())
    }

    /// Allocates zeros: the time does not depend on the values, and nothing overflows.
    fn memory(&self, bytes: usize) -> Result<DeviceMemory, DriverError> {
        DeviceMemory::from_bytes(&self.device, &vec![0; bytes])
    }

    fn group_norm(&self, on: &dyn Launch, norm: &GroupNorm) -> Outcome<()> {
        let values = norm.batch * norm.channels * norm.spatial * norm.kind.bytes();
        let rows = norm.batch * norm.channels * 4;
        let [x, y, dy, dx] = [self.memory(values)?, self.memory(values)?, self.memory(values)?, self.memory(values)?];
        let channels = [(); 4].map(|()| self.memory(norm.channels * 4));
        let [weight, bias, dweight, dbias] = channels;
        let (weight, bias, dweight, dbias) = (weight?, bias?, dweight?, dbias?);
        let modulations = [(); 4].map(|()| self.memory(rows));
        let [scale, shift, dscale, dshift] = modulations;
        let (scale, shift, dscale, dshift) = (scale?, shift?, dscale?, dshift?);
        let (mean, rstd) = (self.memory(norm.batch * norm.groups * 4)?, self.memory(norm.batch * norm.groups * 4)?);
        let workspace = self.memory(norm.forward_workspace()?.max(norm.backward_workspace()?))?;
        let modulation = Some((scale.address(), shift.address()));
        let forward = Forward {
            x: x.address(),
            y: y.address(),
            weight: weight.address(),
            bias: bias.address(),
            modulation,
            mean: mean.address(),
            rstd: rstd.address(),
            workspace: workspace.address(),
        };
        let backward = Backward {
            x: x.address(),
            dy: dy.address(),
            dx: dx.address(),
            weight: weight.address(),
            bias: bias.address(),
            modulation,
            mean: mean.address(),
            rstd: rstd.address(),
            dweight: dweight.address(),
            dbias: dbias.address(),
            dmodulation: Some((dscale.address(), dshift.address())),
            workspace: workspace.address(),
        };
        let name = match norm.activation {
            Activation::SiluDropout(_) => "silu, dropout",
            Activation::Silu => "silu",
            Activation::None => "plain",
        };
        let what = |pass| format!("group norm {pass} {:?} {} x {}, {name}", norm.layout, norm.channels, norm.spatial);
        // x and y. The statistics are a separate pass over x.
        let bytes = Bytes { needed: 2 * values, accessed: Some(3 * values) };
        // SAFETY: all memory has the sizes in the structs, and outlives the measurement.
        self.report(&what("forward"), bytes, || Ok(unsafe { norm.forward(on, &forward) }?))?;
        // x, dy and dx. The sums are a separate pass over x and dy.
        let bytes = Bytes { needed: 3 * values, accessed: Some(5 * values) };
        // SAFETY: as above.
        self.report(&what("backward"), bytes, || Ok(unsafe { norm.backward(on, &backward) }?))
    }

    fn optimizer(&self, on: &dyn Launch, length: usize, num_averages: usize) -> Outcome<()> {
        let floats = (0..3 + num_averages).map(|_| self.memory(length * 4)).collect::<Result<Vec<_>, _>>()?;
        let (gradient, half) = (self.memory(length * 2)?, self.memory(length * 2)?);
        let partials = self.memory(num_partials(Kind::Half, length) * 8)?;
        let memory = AdamMemory {
            length,
            master: floats[0].address(),
            mean: floats[1].address(),
            variance: floats[2].address(),
            gradient: (Kind::Half, gradient.address()),
            half: Some((Kind::Half, half.address())),
            averages: floats[3..].iter().map(|average| (0.9999, average.address())).collect(),
        };
        let hyper = AdamHyper {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
        };
        // SAFETY: all memory has this length and outlives the measurement.
        let bytes = Bytes::once(length * (2 * 4 * floats.len() + 4));
        self.report(&format!("adam, {num_averages} averages"), bytes, || {
            Ok(unsafe { adam(on, &memory, &hyper, None) }?)
        })?;
        // SAFETY: as above.
        self.report("sum of squares, float16", Bytes::once(length * 2), || {
            Ok(unsafe { sum_of_squares(on, Kind::Half, gradient.address(), length, partials.address()) }?)
        })
    }
}

fn main() -> Outcome<()> {
    let environment = GpuEnvironment::from_vars(|name| std::env::var_os(name));
    let search = SearchPath::new(&environment);
    println!("{}", admiral_gpu::found::find_all(&search));
    let device = Device::open(&Driver::load(&search)?, 0)?;
    let stream = Stream::new(&device)?;
    let kernels = Kernels::new(&device, search, KernelCache::new(environment.kernel_cache_folder()))?;
    let mut bench = Bench { device, stream, copy: 1.0 };
    let (from, to) = (bench.memory(256 << 20)?, bench.memory(256 << 20)?);
    bench.copy = (512 << 20) as f64 / bench.seconds(|| Ok(to.copy_from(&from, &bench.stream)?))?;
    println!("a copy moves {:.0} GB/s", bench.copy / 1e9);
    // SAFETY: the stream belongs to the device and lives until the end.
    let on = unsafe { kernels.on(bench.stream.handle()) };
    for layout in [Layout::ChannelsLast, Layout::Contiguous] {
        for (channels, spatial) in [(192, 64 * 64), (384, 32 * 32), (576, 16 * 16), (768, 8 * 8), (1152, 16 * 16)] {
            for activation in
                [Activation::Silu, Activation::SiluDropout(Dropout { probability: 0.1, seed: 1, offset: 0 })]
            {
                let norm = GroupNorm {
                    kind: Kind::Half,
                    layout,
                    batch: 64,
                    channels,
                    spatial,
                    groups: 32,
                    eps: 1e-5,
                    activation,
                };
                bench.group_norm(&on, &norm)?;
            }
        }
    }
    bench.optimizer(&on, 100_000_000, 1)?;
    bench.optimizer(&on, 100_000_000, 3)
}
