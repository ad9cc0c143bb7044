// What the parts of the bridge share: every function they export returns what `guarded` returns.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace admiral {

// The message of this thread's latest failure.
std::string& last_error() noexcept;

// Runs `body`; 0 when it returned, 1 when it threw. No exception may cross into Rust.
template <typename Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    try {
      last_error() = error.what_without_backtrace();
    } catch (...) {
    }
  } catch (const std::exception& error) {
    try {
      last_error() = error.what();
    } catch (...) {
    }
  } catch (...) {
    try {
      last_error() = "an exception that is not a std::exception";
    } catch (...) {
    }
  }
  return 1;
}

}  // namespace admiral
