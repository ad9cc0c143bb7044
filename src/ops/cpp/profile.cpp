// libtorch's own profiler: a Chrome trace of what ran, and how often each operation was called, by whom.
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

// The ways in which libtorch comes to a copy: who asked for it stands around them.
bool is_way(const std::string& name) {
  static const std::set<std::string> ways{"aten::contiguous", "aten::clone", "aten::_to_copy", "aten::to",
                                          "aten::copy_", "aten::reshape"};
  return ways.count(name) != 0;
}

int64_t values_of(const profiler::KinetoEvent& event) {
  if (!event.hasShapes() || event.shapes().empty()) return 0;
  int64_t values = 1;
  for (const int64_t size : event.shapes()[0]) values *= size;
  return values;
}

// By name, and by the name of the operation around it that is no mere way to it.
std::map<std::pair<std::string, std::string>, Total> totals_of(const std::vector<profiler::KinetoEvent>& events) {
  std::vector<const profiler::KinetoEvent*> order;
  for (const profiler::KinetoEvent& event : events) order.push_back(&event);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    if (a->startThreadId() != b->startThreadId()) return a->startThreadId() < b->startThreadId();
    if (a->startNs() != b->startNs()) return a->startNs() < b->startNs();
    return a->durationNs() > b->durationNs();
  });
  std::map<std::pair<std::string, std::string>, Total> totals;
  // The events around this one, outermost first.
  std::vector<const profiler::KinetoEvent*> around;
  for (const profiler::KinetoEvent* event : order) {
    while (!around.empty() && (around.back()->startThreadId() != event->startThreadId() ||
                               around.back()->startNs() + around.back()->durationNs() <= event->startNs()))
      around.pop_back();
    const auto asks =
        std::find_if(around.rbegin(), around.rend(), [](const auto* outer) { return !is_way(outer->name()); });
    Total& total = totals[{event->name(), asks == around.rend() ? std::string() : (*asks)->name()}];
    total.calls += 1;
    total.nanoseconds += static_cast<int64_t>(event->durationNs());
    total.values += values_of(*event);
    around.push_back(event);
  }
  return totals;
}

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

// Ends that, writes the trace to `path` where it is not null, and calls `tell` with each operation's name, the operation
// within which it was called, the number of calls, their nanoseconds, those of what it called among them, and the values
// of their first arguments.
int admiral_profile_end(const char* path, void* context,
                        void (*tell)(void*, const char* name, const char* within, int64_t calls, int64_t nanoseconds,
                                     int64_t values)) {
  return admiral::guarded([&] {
    const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
    if (path) result->save(path);
    for (const auto& [names, total] : totals_of(result->events()))
      tell(context, names.first.c_str(), names.second.c_str(), total.calls, total.nanoseconds, total.values);
  });
}

}  // extern "C"
