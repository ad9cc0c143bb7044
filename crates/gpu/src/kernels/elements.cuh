// Element types, and their conversion from and to float. No CUDA headers are included, because NVRTC may not find them.
//
// ADMIRAL_HOST is defined if this source is compiled as C++ for a CPU, with tests/host_shim.h.

#ifndef ADMIRAL_HOST
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KIND_FLOAT 0
#define KIND_HALF 1
#define KIND_BFLOAT16 2

template <int kKind> struct SizeOf { enum { value = 2 }; };
template <> struct SizeOf<KIND_FLOAT> { enum { value = 4 }; };

template <int kKind> __device__ inline float to_float(u32 bits);
template <> __device__ inline float to_float<KIND_FLOAT>(u32 bits) { return __uint_as_float(bits); }
template <> __device__ inline float to_float<KIND_BFLOAT16>(u32 bits) { return __uint_as_float(bits << 16); }
template <> __device__ inline float to_float<KIND_HALF>(u32 bits) {
#ifdef ADMIRAL_HOST
  return host_half_to_float(static_cast<u16>(bits));
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<u16>(bits)));
  return value;
#endif
}

// Rounds to nearest, ties to even. A NaN stays a NaN.
template <int kKind> __device__ inline u32 from_float(float value);
template <> __device__ inline u32 from_float<KIND_FLOAT>(float value) { return __float_as_uint(value); }
template <> __device__ inline u32 from_float<KIND_BFLOAT16>(float value) {
  const u32 bits = __float_as_uint(value);
  return value != value ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
template <> __device__ inline u32 from_float<KIND_HALF>(float value) {
#ifdef ADMIRAL_HOST
  return host_float_to_half(value);
#else
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}

// kSize bytes of memory, loaded or stored in one instruction. The address must be a multiple of kSize.
template <int kSize> struct Raw { u32 word[kSize / 4]; };
template <> struct Raw<2> { u32 word[1]; };

__device__ inline void load_raw(Raw<2>& raw, const void* from) { raw.word[0] = *static_cast<const u16*>(from); }
__device__ inline void load_raw(Raw<4>& raw, const void* from) { raw.word[0] = *static_cast<const u32*>(from); }
__device__ inline void load_raw(Raw<8>& raw, const void* from) {
  const uint2 value = *static_cast<const uint2*>(from);
  raw.word[0] = value.x;
  raw.word[1] = value.y;
}
__device__ inline void load_raw(Raw<16>& raw, const void* from) {
  const uint4 value = *static_cast<const uint4*>(from);
  raw.word[0] = value.x;
  raw.word[1] = value.y;
  raw.word[2] = value.z;
  raw.word[3] = value.w;
}

__device__ inline void store_raw(const Raw<2>& raw, void* to) { *static_cast<u16*>(to) = static_cast<u16>(raw.word[0]); }
__device__ inline void store_raw(const Raw<4>& raw, void* to) { *static_cast<u32*>(to) = raw.word[0]; }
__device__ inline void store_raw(const Raw<8>& raw, void* to) {
  *static_cast<uint2*>(to) = make_uint2(raw.word[0], raw.word[1]);
}
__device__ inline void store_raw(const Raw<16>& raw, void* to) {
  *static_cast<uint4*>(to) = make_uint4(raw.word[0], raw.word[1], raw.word[2], raw.word[3]);
}

// kWidth consecutive elements.
template <int kKind, int kWidth> struct Vector {
  enum { kBytes = kWidth * SizeOf<kKind>::value };
  Raw<kBytes> raw;

  __device__ inline void load(const void* base, i64 index) {
    load_raw(raw, static_cast<const char*>(base) + index * SizeOf<kKind>::value);
  }
  __device__ inline void store(void* base, i64 index) const {
    store_raw(raw, static_cast<char*>(base) + index * SizeOf<kKind>::value);
  }
  __device__ inline float get(int i) const {
    if (kKind == KIND_FLOAT) return to_float<kKind>(raw.word[i]);
    return to_float<kKind>((raw.word[i / 2] >> (16 * (i % 2))) & 0xffffu);
  }
  // Elements must be set in order, from 0, because setting an element with an even index clears the next one.
  __device__ inline void set(int i, float value) {
    const u32 bits = from_float<kKind>(value);
    if (kKind == KIND_FLOAT) raw.word[i] = bits;
    else if (i % 2 == 0) raw.word[i / 2] = bits;
    else raw.word[i / 2] |= bits << 16;
  }
};
