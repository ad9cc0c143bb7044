// libtorch's profiler: a Chrome trace, and the number of calls of each operation by its caller.
#include "bridge.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;

struct Total {
  int64_t calls = 0;
  int64_t nanoseconds = 0;
  int64_t values = 0;
};

// Whether an operation only wraps a copy. Its caller counts as the caller of the copy.
bool is_copy_wrapper(const std::string& name) {
  static const std::set<std::string> wrappers{"aten::contiguous", "aten::clone", "aten::_to_copy", "aten::to",
                                          "aten::copy_", "aten::reshape"};
  return wrappers.count(name) != 0;
}

int64_t values_of(const profiler::KinetoEvent& event) {
  if (!event.hasShapes() || event.shapes().empty()) return 0;
  int64_t values = 1;
  for (const int64_t size : event.shapes()[0]) values *= size;
  return values;
}

// Returns the totals by the name of an operation and the name of its caller, without wrappers of copies.
std::map<std::pair<std::string, std::string>, Total> totals_of(const std::vector<profiler::KinetoEvent>& events) {
  std::vector<const profiler::KinetoEvent*> order;
  for (const profiler::KinetoEvent& event : events) order.push_back(&event);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    if (a->startThreadId() != b->startThreadId()) return a->startThreadId() < b->startThreadId();
    if (a->startNs() != b->startNs()) return a->startNs() < b->startNs();
    return a->durationNs() > b->durationNs();
  });
  std::map<std::pair<std::string, std::string>, Total> totals;
  // The events that enclose the current one, outermost first.
  std::vector<const profiler::KinetoEvent*> enclosing;
  for (const profiler::KinetoEvent* event : order) {
    while (!enclosing.empty() && (enclosing.back()->startThreadId() != event->startThreadId() ||
                                  enclosing.back()->startNs() + enclosing.back()->durationNs() <= event->startNs()))
      enclosing.pop_back();
    const auto caller = std::find_if(enclosing.rbegin(), enclosing.rend(),
                                     [](const auto* outer) { return !is_copy_wrapper(outer->name()); });
    Total& total = totals[{event->name(), caller == enclosing.rend() ? std::string() : (*caller)->name()}];
    total.calls += 1;
    total.nanoseconds += static_cast<int64_t>(event->durationNs());
    total.values += values_of(*event);
    enclosing.push_back(event);
  }
  return totals;
}

}  // namespace

extern "C" {

// Starts recording the operations of all threads.
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

// Stops recording and writes the trace to `path`, if it is not null. Then calls `report` for each operation and caller
// with the names of both, the number of calls, their total nanoseconds including nested operations, and the total
// number of values of their first arguments.
int admiral_profile_end(const char* path, void* context,
                        void (*report)(void*, const char* name, const char* within, int64_t calls,
                                       int64_t nanoseconds, int64_t values)) {
  return admiral::guarded([&] {
    const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
    if (path) result->save(path);
    for (const auto& [names, total] : totals_of(result->events()))
      report(context, names.first.c_str(), names.second.c_str(), total.calls, total.nanoseconds, total.values);
  });
}

}  // extern "C"
