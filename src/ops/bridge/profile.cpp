// libtorch's own profiler: a Chrome trace of what ran, and how often each operation was called.
#include "bridge.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

namespace {

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;

}  // namespace

extern "C" {

// Begins to record the operations of all threads.
int admiral_profile_begin(bool cuda) {
  return admiral::guarded([&] {
    const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO,
                                                       /*report_input_shapes=*/true);
    std::set<ActivityType> activities{ActivityType::CPU};
    if (cuda) activities.insert(ActivityType::CUDA);
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities, {at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE,
                                                  at::RecordScope::BACKWARD_FUNCTION});
  });
}

// Ends that, writes the trace to `path` where it is not null, and calls `tell` with each operation's name, its number
// of calls and their nanoseconds, those of what it called among them.
int admiral_profile_end(const char* path, void* context,
                        void (*tell)(void*, const char* name, int64_t calls, int64_t nanoseconds)) {
  return admiral::guarded([&] {
    const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
    if (path) result->save(path);
    std::map<std::string, std::pair<int64_t, int64_t>> totals;
    for (const profiler::KinetoEvent& event : result->events()) {
      auto& [calls, nanoseconds] = totals[event.name()];
      calls += 1;
      nanoseconds += static_cast<int64_t>(event.durationNs());
    }
    for (const auto& [name, total] : totals) tell(context, name.c_str(), total.first, total.second);
  });
}

}  // extern "C"
