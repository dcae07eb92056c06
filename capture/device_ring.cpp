// SPDX-License-Identifier: Apache-2.0
#include "capture/device_ring.h"

#include <chrono>

#include "core/error.h"

namespace kvscope::KVSCOPE_TWIN {

std::shared_ptr<DeviceRing::Piece> DeviceRing::Take(size_t bytes, int64_t* stall_ns) {
  KVSCOPE_CHECK_LE(bytes, ring_.bytes());
  std::unique_lock lock(mutex_);
  std::optional<size_t> begin = ring_.Take(bytes);
  if (!begin) {
    const auto since = std::chrono::steady_clock::now();
    has_room_.wait(lock, [&] {
      begin = ring_.Take(bytes);
      return begin.has_value();
    });
    *stall_ns += std::chrono::nanoseconds(std::chrono::steady_clock::now() - since).count();
  }
  return std::make_shared<Piece>(*this, *begin);
}

void DeviceRing::Release(size_t begin) {
  const std::lock_guard lock(mutex_);
  ring_.Release(begin);
  has_room_.notify_one();
}

}  // namespace kvscope::KVSCOPE_TWIN
