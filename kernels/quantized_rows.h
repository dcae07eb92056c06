// SPDX-License-Identifier: Apache-2.0
// Activations as bytes, for products with quantised weights: per 32 values of a row one scale, max|x| / 127, and codes
// round(x / scale) in [-127, 127], ties to even. What a group of 16 or 32 weights meets is kept with its group.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace kvscope {

// x [inputs], inputs a multiple of 32 -> codes [inputs], scales [inputs / group], sums of codes [inputs / group]. 32
// values of which one is not finite: scale NaN, codes 0. All below 1e-30: scale 0, codes 0.
void QuantizeRow(std::span<const float> x, int group, int8_t* codes, float* scales, int32_t* sums);

class QuantizedRows {
 public:
  // Room for rows; Set fills one.
  QuantizedRows(int rows, int inputs, int group);
  void Set(int row, std::span<const float> x);

  const int8_t* codes(int row) const { return codes_.get() + static_cast<int64_t>(row) * inputs_; }
  const float* scales(int row) const { return scales_.get() + static_cast<int64_t>(row) * groups_; }
  const int32_t* sums(int row) const { return sums_.get() + static_cast<int64_t>(row) * groups_; }
  const float* scaled_sums(int row) const { return scaled_sums_.get() + static_cast<int64_t>(row) * groups_; }
  int group() const { return group_; }

 private:
  int64_t inputs_, groups_;
  int group_;
  std::unique_ptr<int8_t[]> codes_;       // [row, input]
  std::unique_ptr<float[]> scales_;       // [row, group]
  std::unique_ptr<int32_t[]> sums_;       // [row, group]
  std::unique_ptr<float[]> scaled_sums_;  // [row, group]: scale * float(sum)
};

}  // namespace kvscope
