// A stub of the driver with two GPUs whose memory is that of the host, for tests of the binding. Like CUDA, it refuses
// calls that need a current context if there is none. The types are those of cuda.h, without including it.
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;

static thread_local long stack[8];
static thread_local int depth;
static int retained, streams, events, modules;
static int fail_launches;  // the code that launches return
static int launched[10];
static long long launched_argument;

#define NEED_CONTEXT() if (depth == 0) return 201

extern "C" {

int stub_depth() { return depth; }
int stub_held() { return retained + streams + events + modules; }
void stub_fail_launches(int code) { fail_launches = code; }
void stub_launched(int* numbers, long long* argument) {
  memcpy(numbers, launched, sizeof launched);
  *argument = launched_argument;
}

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int* version) { *version = 12080; return 0; }
int cuGetErrorName(int code, const char** text) { *text = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR"; return 0; }
int cuGetErrorString(int code, const char** text) { *text = code == 700 ? "an illegal memory access" : nullptr; return 0; }
int cuDeviceGetCount(int* count) { *count = 2; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 100 + ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) {
  if (length < 9) return 1;
  strcpy(name, device == 100 ? "Stub 0" : "Stub 1");
  return 0;
}
int cuDeviceGetAttribute(int* value, int which, int) {
  *value = which == 16 ? 132 : which == 75 ? 9 : which == 76 ? 0 : -1;
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = 80ull << 30; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { ++retained; *context = (void*)(long)device; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { --retained; return 0; }
int cuCtxSetCurrent(void* context) {
  if (depth == 0) depth = 1;
  stack[depth - 1] = (long)context;
  return 0;
}
int cuCtxPushCurrent_v2(void* context) { stack[depth++] = (long)context; return 0; }
int cuCtxPopCurrent_v2(void** context) { NEED_CONTEXT(); *context = (void*)stack[--depth]; return 0; }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) { NEED_CONTEXT(); *free_bytes = 7; *total = 9; return 0; }
int cuMemAlloc_v2(Address* address, size_t bytes) {
  NEED_CONTEXT();
  if (!bytes) return 1;
  *address = (Address)malloc(bytes);
  return 0;
}
int cuMemFree_v2(Address address) { NEED_CONTEXT(); free((void*)address); return 0; }
int cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) { NEED_CONTEXT(); memcpy((void*)to, from, bytes); return 0; }
int cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) { NEED_CONTEXT(); memcpy(to, (void*)from, bytes); return 0; }
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
  NEED_CONTEXT();
  memcpy((void*)to, (void*)from, bytes);
  return stream == (void*)77 ? 0 : 400;
}
int cuModuleLoadData(void** module, const void* image) {
  NEED_CONTEXT();
  if (memcmp(image, "\177ELF", 4)) return 200;
  ++modules;
  *module = (void*)5;
  return 0;
}
int cuModuleUnload(void*) { NEED_CONTEXT(); --modules; return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  NEED_CONTEXT();
  if (module != (void*)5 || !strcmp(name, "other")) return 500;
  *function = (void*)6;
  return 0;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
  NEED_CONTEXT();
  const int numbers[10] = {(int)gx, (int)gy, (int)gz, (int)bx, (int)by, (int)bz, (int)shared, (int)(long)stream,
                           (int)(long)function, extra != nullptr};
  memcpy(launched, numbers, sizeof launched);
  launched_argument = *(long long*)arguments[0];
  return fail_launches;
}
int cuStreamCreate(void** stream, unsigned flags) { NEED_CONTEXT(); ++streams; *stream = (void*)77; return flags == 1 ? 0 : 1; }
int cuStreamDestroy_v2(void*) { NEED_CONTEXT(); --streams; return 0; }
int cuStreamSynchronize(void* stream) { NEED_CONTEXT(); return stream == (void*)77 ? 0 : 400; }
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  NEED_CONTEXT();
  return stream == (void*)77 && event == (void*)88 && !flags ? 0 : 400;
}
static int recorded;
int cuEventCreate(void** event, unsigned) { NEED_CONTEXT(); ++events; *event = (void*)88; return 0; }
int cuEventRecord(void* event, void* stream) {
  NEED_CONTEXT();
  ++recorded;
  return event == (void*)88 && stream == (void*)77 ? 0 : 400;
}
int cuEventQuery(void*) { NEED_CONTEXT(); return recorded > 1 ? 0 : 600; }
int cuEventElapsedTime(float* milliseconds, void*, void*) { NEED_CONTEXT(); *milliseconds = 1500; return 0; }
int cuEventDestroy_v2(void*) { NEED_CONTEXT(); --events; return 0; }

}
