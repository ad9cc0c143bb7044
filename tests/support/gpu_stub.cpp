// A CUDA driver and an NCCL that keep one log of what goes to which stream: the only peer has the same values as this
// rank, so a sum is twice the value. The types are those of cuda.h and nccl.h, written out.
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <mutex>
#include <string>

struct Id { char internal[128]; };

static std::mutex lock;
static std::string calls;
static int depth, events, clock_now, stamps[256];
static int looks;       // how often an event is not there yet; negative: for ever
static int peer_state;  // what NCCL says of its collectives

static void note(const char* format, long a = 0, long b = 0) {
  char line[128];
  snprintf(line, sizeof line, format, a, b);
  const std::lock_guard<std::mutex> guard(lock);
  calls += line;
  calls += '\n';
}

#define NEED_CONTEXT() if (depth == 0) return 201

extern "C" {

const char* stub_log() {
  static thread_local std::string copy;
  const std::lock_guard<std::mutex> guard(lock);
  copy = calls;
  return copy.c_str();
}
void stub_set(int not_yet, int state) { looks = not_yet; peer_state = state; }

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { *version = 12080; return 0; }
int cuGetErrorName(int, const char** text) { *text = "CUDA_ERROR"; return 0; }
int cuGetErrorString(int, const char** text) { *text = nullptr; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int) { *device = 0; return 0; }
int cuDeviceGetName(char*, int, int) { return 1; }
int cuDeviceGetAttribute(int*, int, int) { return 1; }
int cuDeviceTotalMem_v2(size_t*, int) { return 1; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &depth; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuCtxPushCurrent_v2(void*) { __atomic_fetch_add(&depth, 1, __ATOMIC_SEQ_CST); return 0; }
int cuCtxPopCurrent_v2(void**) { __atomic_fetch_sub(&depth, 1, __ATOMIC_SEQ_CST); return 0; }
int cuMemGetInfo_v2(size_t*, size_t*) { return 1; }
int cuMemAlloc_v2(unsigned long long*, size_t) { return 1; }
int cuMemFree_v2(unsigned long long) { return 1; }
int cuMemcpyHtoD_v2(unsigned long long, const void*, size_t) { return 1; }
int cuMemcpyDtoH_v2(void*, unsigned long long, size_t) { return 1; }
int cuMemcpyDtoDAsync_v2(unsigned long long, unsigned long long, size_t, void*) { return 1; }
int cuModuleLoadData(void**, const void*) { return 1; }
int cuModuleUnload(void*) { return 1; }
int cuModuleGetFunction(void**, void*, const char*) { return 1; }
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) { return 1; }
int cuStreamCreate(void** stream, unsigned) { NEED_CONTEXT(); *stream = (void*)77; return 0; }
int cuStreamDestroy_v2(void*) { return 0; }
int cuStreamSynchronize(void*) { return 1; }
int cuEventCreate(void** event, unsigned) { NEED_CONTEXT(); *event = (void*)(long)++events; return 0; }
int cuEventDestroy_v2(void*) { return 0; }
int cuEventRecord(void* event, void* stream) {
  NEED_CONTEXT();
  stamps[(long)event] = ++clock_now;
  note("event %ld in %ld", (long)event, (long)stream);
  return 0;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
  NEED_CONTEXT();
  note("%ld waits for event %ld", (long)stream, (long)event);
  return 0;
}
int cuEventQuery(void*) {
  NEED_CONTEXT();
  if (looks < 0) return 600;
  if (looks > 0) { --looks; return 600; }
  return 0;
}
int cuEventElapsedTime(float* milliseconds, void* begin, void* end) {
  NEED_CONTEXT();
  *milliseconds = stamps[(long)end] - stamps[(long)begin];
  return 0;
}

int ncclGetVersion(int* version) { *version = 22705; return 0; }
const char* ncclGetErrorString(int) { return "remote process exited"; }
const char* ncclGetLastError(void*) { return ""; }
int ncclGetUniqueId(Id* id) { memset(id->internal, 42, 128); return 0; }
int ncclCommInitRankConfig(void** comm, int ranks, Id id, int rank, void*) {
  note("rank %ld joins with id %ld", rank, ranks == 2 ? id.internal[0] : -1);
  *comm = &calls;
  return 0;
}
int ncclCommInitRank(void**, int, Id, int) { return 3; }
int ncclCommGetAsyncError(void*, int* state) { *state = peer_state; return 0; }
int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, void*, void* stream) {
  if (from != to || type != 7 || operation != 0) return 4;
  float* const values = static_cast<float*>(to);
  for (size_t i = 0; i < count; ++i) values[i] *= 2;
  note("sum of %ld in %ld", (long)count, (long)stream);
  return 0;
}
int ncclReduceScatter(const void*, void*, size_t, int, int, void*, void*) { return 3; }
int ncclAllGather(const void*, void*, size_t, int, void*, void*) { return 3; }
int ncclBroadcast(const void*, void*, size_t, int, int, void*, void*) { return 3; }
int ncclGroupStart() { return 3; }
int ncclGroupEnd() { return 3; }
int ncclCommFinalize(void*) { note("finalize"); return 0; }
int ncclCommDestroy(void*) { note("destroy"); return 0; }
int ncclCommAbort(void*) { note("abort"); return 0; }

}
