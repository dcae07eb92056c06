// SPDX-License-Identifier: Apache-2.0
// links: kvscope_capture_lib
// A model file of any family is loaded and run for three tokens, or refused with an Error.
#include <cstdint>
#include <string_view>
#include <vector>

#include "capture/decoder.h"
#include "capture/full_cache.h"
#include "core/error.h"

namespace kvscope {
namespace {

void LoadAndRun(std::string_view bytes) {
  const GgufFile gguf = GgufFile::FromBytes("fuzz.gguf", bytes);
  for (const int max_tokens : {0, 1 << 20}) {
    const auto model = LoadModel(gguf, max_tokens);
    const ModelConfig& c = model->config;
    for (const DType dtype : {DType::kF16, DType::kF32}) {
      FullCache cache(c, dtype);
      Decoder decoder(*model);
      const int ids[] = {0, c.vocab - 1, c.vocab / 2};
      const DecoderInput input{.cache = &cache, .ids = ids, .observer = {}};
      const std::span<const float> hidden = decoder.Run({&input, 1});
      std::vector<float> logits(c.vocab);
      decoder.Logits(hidden.last(c.hidden), 1, logits);
    }
  }
}

}  // namespace
}  // namespace kvscope

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    kvscope::LoadAndRun({reinterpret_cast<const char*>(data), size});
  } catch (const kvscope::Error&) {
  }
  return 0;
}
