// Error handling of the bridge. Exported functions that can fail return the result of `guarded`.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace admiral {

// The message of the last error on this thread.
std::string& last_error() noexcept;

// Runs `body`. Returns 0 on success and 1 if it throws, because an exception must not propagate into Rust.
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
