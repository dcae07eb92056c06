// SPDX-License-Identifier: Apache-2.0
// Weights for performance runs only, where nobody reads what the model says. Value i depends on (seed, i) alone and has
// the same bits on every backend: an integer hash (the finaliser of Steele et al. 2014, Fast Splittable Pseudorandom
// Number Generators, https://doi.org/10.1145/2660193.2660195) and one multiplication.
#pragma once

#include <cstdint>

#include "kernels/dense_matmul.h"
#include "kernels/device.h"
#include "kernels/tensor.h"

namespace kvscope {

// data [count], 2 bytes each: uniform around 0 with that standard deviation.
namespace cpu {
void FillRandom(void* data, int64_t count, DenseType type, uint64_t seed, float deviation);
}
namespace cuda {
void FillRandom(void* data, int64_t count, DenseType type, uint64_t seed, float deviation, const Workspace& workspace);
}

KVSCOPE_HOST_DEVICE inline uint64_t MixBits(uint64_t bits) {
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

// Value i in units of RandomUnit: an odd number between -2^23 and 2^23, so exact as a float.
KVSCOPE_HOST_DEVICE inline float RandomStep(uint64_t seed, int64_t i) {
  const uint64_t hash = MixBits(MixBits(seed) + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u);
  return static_cast<float>(2 * static_cast<int>(hash >> 41) + 1 - (1 << 23));
}
inline float RandomUnit(float deviation) {  // uniform in [-a, a] has the standard deviation a / sqrt(3)
  return static_cast<float>(deviation * 1.7320508075688772 / (1 << 23));
}

}  // namespace kvscope
