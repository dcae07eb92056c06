// SPDX-License-Identifier: Apache-2.0
#include "replay/store.h"

#include "core/error.h"

namespace kvscope {

void StoredHead::BalanceKeys(std::span<const float> factors) {
  (void)factors;
  KVSCOPE_CHECK(false && "this store does not balance keys");
}

double Store::BytesPerEntry(int head_dim_k, int head_dim_v, int bits) const {
  (void)head_dim_k, (void)head_dim_v, (void)bits;
  KVSCOPE_CHECK(false && "this store has one kind of entry");
  return 0;
}

}  // namespace kvscope
