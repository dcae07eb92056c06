// SPDX-License-Identifier: Apache-2.0
#include "capture/byte_ring.h"

#include <algorithm>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

std::optional<size_t> ByteRing::Take(size_t bytes) {
  const size_t size = std::max<size_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
  std::optional<size_t> begin;
  if (pieces_.empty()) {
    if (size <= bytes_) begin = 0;
  } else {
    const size_t oldest = pieces_.front().begin, newest_end = pieces_.back().end;
    if (newest_end <= oldest) {  // the newest lies before the oldest: between them is room
      if (newest_end + size <= oldest) begin = newest_end;
    } else if (newest_end + size <= bytes_) {
      begin = newest_end;
    } else if (size <= oldest) {
      begin = 0;
    }
  }
  if (begin) pieces_.push_back({*begin, *begin + size, false});
  return begin;
}

void ByteRing::Release(size_t begin) {
  const auto piece =
      std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) { return p.begin == begin && !p.is_released; });
  KVSCOPE_CHECK(piece != pieces_.end());
  piece->is_released = true;
  while (!pieces_.empty() && pieces_.front().is_released) pieces_.pop_front();
}

size_t ByteRing::taken_bytes() const {
  if (pieces_.empty()) return 0;
  const size_t begin = pieces_.front().begin, end = pieces_.back().end;
  return end > begin ? end - begin : bytes_ - begin + end;
}

}  // namespace kvscope
