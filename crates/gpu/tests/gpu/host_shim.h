// An emulation of CUDA on a CPU, for tests. The source of a kernel is compiled as C++ with this file in front of it.
//
// The threads of a block are fibers that run one at a time, in an order that the test chooses. A fiber runs until it
// waits for others: at __syncthreads for all threads of the block that have not ended, at a shuffle for its warp. A
// warp runs until it waits for the block. A missing barrier therefore causes wrong numbers in some order, and a barrier
// that not all threads reach is an error. Shared memory is full of NaN when a block starts. Writes past the shared
// memory of a launch are detected.

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define ADMIRAL_HOST 1
#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("admiral_shared")))
#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(host::dynamic_shared)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static inline unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return bits;
}
// A macro, because the C library has a function of this name.
#define __expf expf
static inline float __fdividef(float x, float y) { return x / y; }

// IEEE half precision: a sign bit, 5 bits of exponent, 10 bits of mantissa.
static inline float host_half_to_float(unsigned short bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  float magnitude;
  if (exponent == 31) magnitude = mantissa ? NAN : INFINITY;
  else if (exponent == 0) magnitude = ldexpf(static_cast<float>(mantissa), -24);
  else magnitude = ldexpf(static_cast<float>(1024 + mantissa), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}
static inline unsigned host_float_to_half(float value) {
  const unsigned sign = (__float_as_uint(value) >> 16) & 0x8000u;
  const float magnitude = fabsf(value);
  if (value != value) return 0x7fffu;
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  if (magnitude == 0) return sign;
  int exponent;
  frexpf(magnitude, &exponent);
  // The distance of consecutive values is 2^(exponent - 11), but at least 2^-24.
  const int unit = exponent - 11 < -24 ? -24 : exponent - 11;
  const unsigned steps = static_cast<unsigned>(nearbyintf(ldexpf(magnitude, -unit)));
  return sign | (unit == -24 ? steps : steps + (static_cast<unsigned>(unit + 24) << 10));
}

struct Dim3 { unsigned x, y, z; };
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

extern char __start_admiral_shared[] __attribute__((weak));
extern char __stop_admiral_shared[] __attribute__((weak));

namespace host {

enum State { kReady, kAtBarrier, kAtShuffle, kEnded };
enum { kMaxThreads = 256, kStack = 64 << 10, kMaxShared = 48 << 10, kGuard = 4096 };

// The context only starts a fiber. Later switches use setjmp and longjmp, which need no system call.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool started;
  State state;
  int line;
  int turn;
};

static Fiber fibers[kMaxThreads];
static char* stacks;
static jmp_buf scheduler;
static unsigned running;
static void (*body)();
alignas(16) static unsigned char dynamic_shared[kMaxShared + kGuard];
// Two buffers, because a lane that continues to the next shuffle must not overwrite values that others have not read.
static unsigned char lanes[2][kMaxThreads][8];

static void wait_as(State state, int line) {
  fibers[running].state = state;
  fibers[running].line = line;
  if (_setjmp(fibers[running].place) == 0) _longjmp(scheduler, 1);
}

static void fiber_main() {
  body();
  fibers[running].state = kEnded;
  _longjmp(scheduler, 1);
}

// Runs a fiber until it waits or ends.
static void resume(unsigned thread) {
  running = thread;
  threadIdx = {thread, 0, 0};
  if (_setjmp(scheduler) != 0) return;
  Fiber& fiber = fibers[running];
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

// Continues fibers that all wait at the same place. Returns false if some of them wait elsewhere or, at a shuffle, have
// ended.
static bool release(unsigned first, unsigned last, State where) {
  int line = 0;
  unsigned waiting = 0, ended = 0;
  for (unsigned i = first; i < last; ++i) {
    if (fibers[i].state == kEnded) {
      ++ended;
      continue;
    }
    if (fibers[i].state != where || (waiting && fibers[i].line != line)) return false;
    line = fibers[i].line;
    ++waiting;
  }
  if (waiting == 0 || (where == kAtShuffle && ended)) return false;
  for (unsigned i = first; i < last; ++i)
    if (fibers[i].state == where) fibers[i].state = kReady;
  return true;
}

// Returns the i-th of n numbers in one of several orders.
static unsigned in_order(unsigned i, unsigned n, unsigned order) {
  if (order % 3 == 0) return i;
  if (order % 3 == 1) return n - 1 - i;
  // Steps of a size that is coprime to n visit all numbers.
  unsigned step = n / 2 + 1 + order % 7;
  for (;; ++step) {
    unsigned a = n, b = step;
    while (b) {
      const unsigned rest = a % b;
      a = b;
      b = rest;
    }
    if (a == 1) break;
  }
  return static_cast<unsigned>(static_cast<uint64_t>(i) * step % n);
}

static const char* run_block(unsigned order) {
  const unsigned threads = blockDim.x;
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks + static_cast<size_t>(i) * kStack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    fiber.state = kReady;
    fiber.turn = 0;
    fiber.started = false;
    makecontext(&fiber.context, fiber_main, 0);
  }
  // Each warp runs as far as possible before the next one, so that it is as far ahead of the others as it can be.
  const unsigned warps = threads / 32;
  for (;;) {
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned first = 32 * in_order(i, warps, order);
      do {
        for (unsigned lane = 0; lane < 32; ++lane) {
          const unsigned thread = first + in_order(lane, 32, order);
          if (fibers[thread].state == kReady) resume(thread);
        }
      } while (release(first, first + 32, kAtShuffle));
    }
    unsigned ended = 0;
    for (unsigned i = 0; i < threads; ++i) ended += fibers[i].state == kEnded;
    if (ended == threads) return nullptr;
    if (!release(0, threads, kAtBarrier)) return "threads wait for each other at different places";
  }
}

struct Launch {
  unsigned grid[3];
  unsigned block;
  unsigned shared_bytes;
  unsigned order;
};

// Returns null, or a description of the error.
static const char* run(void (*kernel)(), const Launch& launch) {
  if (!stacks) stacks = static_cast<char*>(malloc(static_cast<size_t>(kMaxThreads) * kStack));
  if (launch.block > kMaxThreads || launch.block % 32) return "a block must have whole warps, and at most 256 threads";
  if (launch.shared_bytes > kMaxShared) return "more shared memory than the smallest device has";
  body = kernel;
  gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
  blockDim = {launch.block, 1, 1};
  const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
  for (unsigned i = 0; i < blocks; ++i) {
    const unsigned block = in_order(i, blocks, launch.order);
    blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / gridDim.x / gridDim.y};
    // All bits set is a NaN in any width.
    memset(dynamic_shared, 0xff, sizeof dynamic_shared);
    if (__start_admiral_shared) memset(__start_admiral_shared, 0xff, __stop_admiral_shared - __start_admiral_shared);
    if (const char* error = run_block(launch.order)) return error;
    for (unsigned byte = launch.shared_bytes; byte < sizeof dynamic_shared; ++byte)
      if (dynamic_shared[byte] != 0xff) return "the kernel wrote past its shared memory";
  }
  return nullptr;
}

template <typename A> size_t size_of_argument(void (*)(A)) { return sizeof(A); }

// An unnamed namespace, so that each library has its own variables: several are loaded in the same process.
namespace {

template <auto kernel> struct Call;
template <typename A, void (*kernel)(A)> struct Call<kernel> {
  static inline const void* argument;
  static void run() { kernel(*static_cast<const A*>(argument)); }
};

}  // namespace

}  // namespace host

static inline void host_syncthreads(int line) { host::wait_as(host::kAtBarrier, line); }
#define __syncthreads() host_syncthreads(__LINE__)

template <typename T> static inline T host_shuffle_xor(T value, int distance, int line) {
  const unsigned me = host::running;
  const int turn = host::fibers[me].turn ^= 1;
  memcpy(host::lanes[turn][me], &value, sizeof value);
  host::wait_as(host::kAtShuffle, line);
  T other;
  memcpy(&other, host::lanes[turn][(me & ~31u) | ((me ^ static_cast<unsigned>(distance)) & 31u)], sizeof other);
  return other;
}
#define __shfl_xor_sync(mask, value, distance) host_shuffle_xor(value, distance, __LINE__)

#define HOST_KERNEL(name)                                                                         \
  extern "C" size_t host_size_##name() { return host::size_of_argument(name); }                   \
  extern "C" const char* host_run_##name(const host::Launch* launch, const void* argument) {      \
    host::Call<name>::argument = argument;                                                        \
    return host::run(host::Call<name>::run, *launch);                                             \
  }
