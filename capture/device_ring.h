// SPDX-License-Identifier: Apache-2.0
// The ring of pinned memory that a device copies what it saw into while it goes on. The model waits only when the ring
// is full; whoever takes pieces out of it (the writer's thread) waits for their copies.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "capture/byte_ring.h"
#include "kernels/device.h"

namespace kvscope::KVSCOPE_TWIN {

class DeviceRing {
 public:
  explicit DeviceRing(size_t bytes) : device_(DeviceInUse()), memory_(bytes), ring_(bytes) {}

  // Given back when it dies; the ring outlives it.
  class Piece {
   public:
    Piece(DeviceRing& ring, size_t begin) : ring_(ring), begin_(begin) {}
    ~Piece() { ring_.Release(begin_); }
    Piece(const Piece&) = delete;
    std::byte* data() const { return static_cast<std::byte*>(ring_.memory_.data()) + begin_; }
    void CopiedOn(void* stream) { arrived_.Record(stream); }  // after what the stream was given
    // Until that is done; on the reader's thread, which otherwise would wake another device.
    void Await() const {
      UseDevice(ring_.device_);
      arrived_.Synchronize();
    }

   private:
    Event arrived_;
    DeviceRing& ring_;
    size_t begin_;
  };

  // Waits for room and adds the time that took to *stall_ns. bytes <= bytes().
  std::shared_ptr<Piece> Take(size_t bytes, int64_t* stall_ns);
  size_t bytes() const { return ring_.bytes(); }

 private:
  void Release(size_t begin);

  int device_;
  PinnedBuffer memory_;
  std::mutex mutex_;
  std::condition_variable has_room_;
  ByteRing ring_;
};

}  // namespace kvscope::KVSCOPE_TWIN
