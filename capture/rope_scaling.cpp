// SPDX-License-Identifier: Apache-2.0
#include "capture/rope_scaling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr const char* kFactors = "rope_freqs.weight";
constexpr const char* kLongFactors = "rope_factors_long.weight";
constexpr const char* kShortFactors = "rope_factors_short.weight";

double FloatIn(const GgufFile& gguf, const std::string& key, double fallback, double low, double high) {
  const double value = gguf.Float(key).value_or(fallback);
  if (value >= low && value <= high) return value;
  throw Error(StrCat(gguf.path(), ":", key, ": expected a number from ", low, " to ", high, ", found ", value,
                     "; the file is damaged"));
}

// Older files say the factor of linear scaling elsewhere; 0 says that there is none.
double FactorOf(const GgufFile& gguf, const std::string& key) {
  constexpr double kHighest = 1e6;
  const double older = FloatIn(gguf, key + "scale_linear", 0, 0, kHighest);
  const double factor = FloatIn(gguf, key + "scaling.factor", older, 0, kHighest);
  return factor == 0 ? 1 : factor;
}

void DivideByFactors(const GgufFile& gguf, const char* name, RopeSet& set) {
  const std::array<int64_t, 1> shape{static_cast<int64_t>(set.inv_freq.size())};
  std::vector<float> factors(set.inv_freq.size());
  gguf.Dequantize(gguf.RequireTensor(name, shape), 0, factors);
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0)) {
      throw Error(StrCat(gguf.path(), ":", name, ": expected factors above 0, found ", factors[i], " at ", i,
                         "; the file is damaged"));
    }
    set.inv_freq[i] /= factors[i];
  }
}

}  // namespace

RopeSet PlainRope(const std::string& name, int head_dim, double base) {
  RopeSet set;
  set.name = name;
  for (int i = 0; i < head_dim / 2; ++i) set.inv_freq.push_back(std::pow(base, -2.0 * i / head_dim));
  return set;
}

RopeSet YarnRope(const std::string& name, int head_dim, double base, const YarnScaling& scaling) {
  RopeSet set = PlainRope(name, head_dim, base);
  set.attention_scaling = 1 + 0.1 * std::log(scaling.factor);
  // The dimension whose frequency turns so many times over the original context.
  const auto dimension = [&](double turns) {
    return head_dim * std::log(scaling.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double first = std::max(0.0, std::floor(dimension(scaling.beta_fast)));
  const double last = std::min(head_dim - 1.0, std::ceil(dimension(scaling.beta_slow)));
  for (int i = 0; i < head_dim / 2; ++i) {
    const double scaled_part = std::clamp((i - first) / std::max(0.001, last - first), 0.0, 1.0);
    set.inv_freq[i] *= 1 - scaled_part + scaled_part / scaling.factor;
  }
  return set;
}

int ShortRopeContext(const GgufFile& gguf, const std::string& architecture) {
  if (!gguf.Find(kLongFactors)) return 0;
  return static_cast<int>(gguf.RequireIntIn(architecture + ".rope.scaling.original_context_length", 1, 1 << 28));
}

RopeSet ReadRope(const GgufFile& gguf, const std::string& architecture, int head_dim, int max_tokens) {
  const std::string key = architecture + ".rope.";
  const double base = FloatIn(gguf, key + "freq_base", 10000, 1.001, 1e12);
  const double factor = FactorOf(gguf, key);
  const int short_context = ShortRopeContext(gguf, architecture);
  const std::string type(gguf.String(key + "scaling.type").value_or("linear"));
  RopeSet set = PlainRope("default", head_dim, base);
  if (type == "yarn") {
    const double context = static_cast<double>(gguf.RequireIntIn(architecture + ".context_length", 1, 1 << 28));
    YarnScaling scaling;
    scaling.factor = factor;
    scaling.original_context = FloatIn(gguf, key + "scaling.original_context_length", context, 1, 1 << 28);
    scaling.beta_fast = FloatIn(gguf, key + "scaling.yarn_beta_fast", scaling.beta_fast, 1e-3, 1e6);
    scaling.beta_slow = FloatIn(gguf, key + "scaling.yarn_beta_slow", scaling.beta_slow, 1e-3, 1e6);
    set = YarnRope("default", head_dim, base, scaling);
    set.attention_scaling = FloatIn(gguf, key + "scaling.yarn_attn_factor", set.attention_scaling, 1e-3, 1e3);
  } else if (type == "linear" && short_context == 0) {
    for (double& frequency : set.inv_freq) frequency /= factor;
  } else if (type != "none" && short_context == 0) {
    throw Error(StrCat(gguf.path(), ":", key, "scaling.type: expected none, linear or yarn, found '", Printable(type),
                       "'; use a variant of the model without it"));
  }
  set.attention_scaling *= FloatIn(gguf, key + "scaling.attn_factor", 1, 1e-3, 1e3);
  if (gguf.Find(kFactors)) DivideByFactors(gguf, kFactors, set);
  if (short_context > 0) DivideByFactors(gguf, max_tokens > short_context ? kLongFactors : kShortFactors, set);
  return set;
}

}  // namespace kvscope
