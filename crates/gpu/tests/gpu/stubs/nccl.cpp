// A stub of NCCL that only logs its calls, for tests of the binding. The types are those of nccl.h, without including
// it.
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <string>

struct Id { char internal[128]; };
struct Config { size_t size; unsigned magic, version; int blocking; };

static std::string call_log;
static int polls_in_progress;  // number of polls that return "in progress"; -1: all
static int final_state;        // the state that later polls return
static int enqueue_code;       // the code that collectives return
static int launches_later;     // whether collectives return "in progress" instead, until a poll
static int in_group;           // the calls of a group are launched at its end
static int polls;              // number of polls

static void note(const char* format, long a = 0, long b = 0, long c = 0, long d = 0) {
  char line[256];
  snprintf(line, sizeof line, format, a, b, c, d);
  call_log += line;
  call_log += '\n';
}

// Returns the code of a collective with valid arguments.
static int enqueue() {
  if (!launches_later) return enqueue_code;
  polls_in_progress = 1;
  return 7;
}

extern "C" {

const char* stub_call_log() { return call_log.c_str(); }
void stub_set(int in_progress, int then, int enqueue) {
  polls_in_progress = in_progress;
  final_state = then;
  enqueue_code = enqueue;
}
void stub_launch_later(int yes) { launches_later = yes; }
int stub_polls() { return polls; }

int ncclGetVersion(int* version) { *version = 22705; return 0; }
const char* ncclGetErrorString(int code) { return code == 6 ? "remote process exited" : "some other error"; }
const char* ncclGetLastError(void*) { return "socket closed"; }
int ncclGetUniqueId(Id* id) { memset(id->internal, 42, 128); return 0; }

int ncclCommInitRankConfig(void** comm, int ranks, Id id, int rank, Config* config) {
  note("init %ld of %ld, id %ld", rank, ranks, id.internal[127]);
  if (config->size < 24 || config->magic != 0xcafebeef || config->version < 21400 || config->blocking) return 4;
  *comm = &call_log;
  return 7;
}
int ncclCommInitRank(void**, int, Id, int) { return 3; }
int ncclCommGetAsyncError(void*, int* state) {
  ++polls;
  if (polls_in_progress < 0) *state = 7;
  else if (polls_in_progress > 0) { --polls_in_progress; *state = 7; }
  else *state = final_state;
  return 0;
}
int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, void* comm, void* stream) {
  note("all-reduce in place %ld, count %ld, type %ld, stream %ld", from == to && comm, count, type, (long)stream);
  return operation == 0 ? enqueue() : 4;
}
int ncclReduceScatter(const void* from, void* to, size_t count, int type, int operation, void*, void* stream) {
  note("reduce-scatter %ld to %ld, count %ld, stream %ld", (long)from, (long)to, count, (long)stream);
  return operation == 0 && type == 6 ? enqueue() : 4;
}
int ncclAllGather(const void* from, void* to, size_t count, int type, void*, void* stream) {
  note("all-gather %ld to %ld, count %ld, stream %ld", (long)from, (long)to, count, (long)stream);
  return type == 9 ? enqueue() : 4;
}
int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, void*, void*) {
  note("broadcast in place %ld, count %ld, type %ld, root %ld", from == to, count, type, root);
  return in_group ? 0 : enqueue();
}
int ncclGroupStart() { note("group"); in_group = 1; return 0; }
int ncclGroupEnd() { note("end of group"); in_group = 0; return enqueue(); }
int ncclCommFinalize(void*) { note("finalize"); return 7; }
int ncclCommDestroy(void*) { note("destroy"); return 0; }
int ncclCommAbort(void*) { note("abort"); return 0; }

}
