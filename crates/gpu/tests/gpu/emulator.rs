//! Tests of the emulator: it must detect mistakes in kernels.

use crate::support::emulator::{compile, run, with_shim};
use admiral_gpu::Shape;

/// Runs `body` in 64 threads, with an array `out` of 64 floats. Returns the values, or the violated rule.
fn run_body(body: &str, order: u32, shared_bytes: u32) -> Result<Vec<f32>, String> {
    let text = format!(
        "struct Arguments {{ float* out; }};\n\
         extern \"C\" __global__ void kernel(const Arguments a) {{\n\
         const int i = threadIdx.x;\n\
         {body}\n\
         }}\n"
    );
    let library = compile("kernel", &with_shim(&text, &["kernel"]), &[]);
    let mut out = vec![-1.0f32; 64];
    let argument = out.as_mut_ptr();
    let shape = Shape { grid: [1, 1, 1], block: 64, shared_bytes };
    // SAFETY: the kernel takes a struct of this one pointer.
    unsafe { run(&library, "kernel", &shape, order, std::ptr::from_ref(&argument).cast(), size_of::<*mut f32>()) }?;
    Ok(out)
}

/// Returns whether the values are right in three orders of the threads.
fn is_right_in_all_orders(body: &str, expected: impl Fn(usize) -> f32) -> bool {
    (0..3).all(|order| {
        let found = run_body(body, order, 0).unwrap();
        found.iter().enumerate().all(|(i, value)| *value == expected(i))
    })
}

#[test]
fn a_missing_barrier_gives_wrong_numbers() {
    let reversed = |i| (63 - i) as f32;
    let with = "__shared__ float all[64]; all[i] = i; __syncthreads(); a.out[i] = all[63 - i];";
    assert!(is_right_in_all_orders(with, reversed));
    assert!(!is_right_in_all_orders(&with.replace("__syncthreads();", ""), reversed));
}

#[test]
fn a_missing_barrier_before_reuse_of_memory_gives_wrong_numbers() {
    let with = "__shared__ float one[1]; float sum = 0; for (int turn = 0; turn < 3; ++turn) { __syncthreads(); \
                if (i == 0) one[0] = turn; __syncthreads(); sum += one[0]; } a.out[i] = sum;";
    assert!(is_right_in_all_orders(with, |_| 3.0));
    assert!(!is_right_in_all_orders(&with.replacen("__syncthreads();", "", 1), |_| 3.0));
}

#[test]
fn uninitialized_shared_memory_is_nan() {
    let found =
        run_body("__shared__ float all[64]; DYNAMIC_SHARED(float, more); a.out[i] = i % 2 ? all[i] : more[i];", 0, 256);
    assert!(found.unwrap().iter().all(|value| value.is_nan()));
}

#[test]
fn shuffles_exchange_within_a_warp() {
    let found = run_body("a.out[i] = __shfl_xor_sync(~0u, 1.0f * i, 5);", 2, 0).unwrap();
    assert!(found.iter().enumerate().all(|(i, value)| *value == (i ^ 5) as f32), "{found:?}");
}

#[test]
fn divergent_barriers_and_shuffles_are_errors() {
    for body in [
        "if (i < 40) __syncthreads();\nelse\n__syncthreads();",
        "if (i % 2) __syncthreads(); else __shfl_xor_sync(~0u, 1.0f, 1);",
        "if (i == 5) return; __shfl_xor_sync(~0u, 1.0f, 1);",
    ] {
        let error = run_body(body, 0, 0).unwrap_err();
        assert!(error.contains("wait for each other at different places"), "{body}: {error}");
    }
}

#[test]
fn writing_past_shared_memory_is_an_error() {
    let body = "DYNAMIC_SHARED(float, all); all[i] = i; a.out[i] = all[i];";
    assert!(run_body(body, 0, 256).is_ok());
    assert!(run_body(body, 0, 252).unwrap_err().contains("past its shared memory"));
}
