// SPDX-License-Identifier: Apache-2.0
// links: kvscope_capture_lib
// Any bytes as a GGUF file: refused with an Error, or every value and tensor in it can be read.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "capture/gguf.h"
#include "core/error.h"

namespace kvscope {
namespace {

template <typename Call>
void AllowError(Call&& call) {
  try {
    call();
  } catch (const Error&) {
  }
}

void ReadAll(const GgufFile& gguf) {
  for (const std::string& key : gguf.Keys()) {
    AllowError([&] { gguf.Int(key); });
    AllowError([&] { gguf.Float(key); });
    AllowError([&] { gguf.Bool(key); });
    AllowError([&] { gguf.String(key); });
    AllowError([&] { gguf.StringArray(key); });
    AllowError([&] { gguf.IntArray(key); });
    AllowError([&] { gguf.FloatArray(key); });
  }
  for (const GgufTensor& tensor : gguf.tensors()) {
    if (!IsReadable(tensor.type)) continue;
    // The file is as long as the tensor, so one row fits in memory; first and last row touch both ends.
    std::vector<float> row(static_cast<size_t>(tensor.Cols()));
    AllowError([&] { gguf.Dequantize(tensor, 0, row); });
    AllowError([&] { gguf.Dequantize(tensor, tensor.Rows() - 1, row); });
  }
}

}  // namespace
}  // namespace kvscope

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvscope;
  AllowError([&] { ReadAll(GgufFile::FromBytes("fuzz.gguf", {reinterpret_cast<const char*>(data), size})); });
  return 0;
}
