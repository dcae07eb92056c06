// SPDX-License-Identifier: Apache-2.0
// Which bytes of a ring are taken: pieces in order, each in one stretch, given back in any order but free again in the
// order they were taken. Where they lie and who waits is device_ring.h's.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>

namespace kvscope {

class ByteRing {
 public:
  explicit ByteRing(size_t bytes) : bytes_(bytes) {}
  // Where the piece begins; nothing while there is no stretch that long. A piece of more than bytes() never fits.
  std::optional<size_t> Take(size_t bytes);
  void Release(size_t begin);  // of a piece that is taken
  size_t bytes() const { return bytes_; }
  size_t taken_bytes() const;  // from the oldest piece's begin to the newest one's end, what cannot be used included

 private:
  struct Piece {
    size_t begin = 0, end = 0;
    bool is_released = false;
  };
  size_t bytes_;
  std::deque<Piece> pieces_;  // oldest first; neighbours but for one step from the end to the beginning
};

}  // namespace kvscope
