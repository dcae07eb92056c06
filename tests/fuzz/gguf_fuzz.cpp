// SPDX-License-Identifier: Apache-2.0
// links: kvscope_capture_lib
// Any bytes as a GGUF file, or as the two parts of a split one that begin with "GGUF": refused with an Error, or every
// value and tensor in it can be read.
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
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
    AllowError([&] { gguf.BoolArray(key); });
  }
  for (const GgufTensor& tensor : gguf.tensors()) {
    if (!IsReadable(tensor.type)) continue;
    // The file is as long as the tensor, so one row fits in memory; first and last row touch both ends.
    std::vector<float> row(static_cast<size_t>(tensor.Cols()));
    AllowError([&] { gguf.Dequantize(tensor, 0, row); });
    AllowError([&] { gguf.Dequantize(tensor, tensor.Rows() - 1, row); });
    gguf.Release(tensor);
  }
}

}  // namespace
}  // namespace kvscope

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvscope;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  AllowError([&] { ReadAll(GgufFile::FromBytes("fuzz.gguf", bytes)); });
  if (const size_t second = bytes.find("GGUF", 4); second != bytes.npos) {
    const std::string names[] = {"fuzz-00001-of-00002.gguf", "fuzz-00002-of-00002.gguf"};
    const std::map<std::string, std::string_view> parts = {{names[0], bytes.substr(0, second)},
                                                           {names[1], bytes.substr(second)}};
    for (const std::string& name : names) AllowError([&] { ReadAll(GgufFile::FromBytes(name, parts)); });
  }
  return 0;
}
