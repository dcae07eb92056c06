// SPDX-License-Identifier: Apache-2.0
// Maps of plug-ins live in function-local statics, so that registration works in any order of static initialisation.
#include "replay/registry.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace kvscope {
namespace {

template <typename Info>
std::map<std::string, Info>& Registered() {
  static std::map<std::string, Info> registered;
  return registered;
}

template <typename Info>
void Register(Info info) {
  const std::string name = info.name;
  const bool is_new = Registered<Info>().emplace(name, std::move(info)).second;
  if (!is_new) CheckFailed(__FILE__, __LINE__, "two plug-ins of a kind have the same name", name);
}

std::string LowerCase(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i) + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const int replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

template <typename Number>
std::optional<Number> ParseNumber(const std::string& text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

Params::Params(std::string where, std::map<std::string, std::string> values)
    : where_(std::move(where)), values_(std::move(values)) {}

std::optional<std::string> Params::Take(const std::string& name) {
  taken_.insert(name);
  const auto found = values_.find(name);
  if (found == values_.end()) return std::nullopt;
  return found->second;
}

// Two plug-ins of a spec may ask for the same parameter (compat): it is listed once.
void Params::Describe(Description description) {
  for (const Description& known : descriptions_) {
    if (known.name == description.name) return;
  }
  descriptions_.push_back(std::move(description));
}

int Params::Int(const std::string& name, int default_value, int min, int max, const std::string& help) {
  const std::string range = StrCat("an integer from ", min, " to ", max);
  int value = default_value;
  if (const auto text = Take(name)) {
    const std::optional<int> number = ParseNumber<int>(*text);
    if (!number || *number < min || *number > max) {
      throw Error(StrCat(where_, ": ", name, ": expected ", range, ", found '", *text, "'"));
    }
    value = *number;
  }
  Describe({name, StrCat(value), range, help, {}, double(min), double(max), true});
  return value;
}

double Params::Real(const std::string& name, double default_value, double min, double max, const std::string& help) {
  const std::string range = StrCat("a number from ", min, " to ", max);
  double value = default_value;
  if (const auto text = Take(name)) {
    const std::optional<double> number = ParseNumber<double>(*text);
    if (!number || !std::isfinite(*number) || *number < min || *number > max) {
      throw Error(StrCat(where_, ": ", name, ": expected ", range, ", found '", *text, "'"));
    }
    value = *number;
  }
  char shortest[32];  // text that reads back as the same number
  const char* const end = std::to_chars(shortest, shortest + sizeof(shortest), value).ptr;
  Describe({name, std::string(static_cast<const char*>(shortest), end), range, help, {}, min, max});
  return value;
}

std::string Params::Choice(const std::string& name, const std::string& default_value,
                           const std::vector<std::string>& choices, const std::string& help) {
  std::string range;
  for (const std::string& choice : choices) range += (range.empty() ? "" : " | ") + choice;
  std::string value = default_value;
  if (const auto text = Take(name)) {
    if (std::find(choices.begin(), choices.end(), *text) == choices.end()) {
      throw Error(StrCat(where_, ": ", name, ": expected ", range, ", found '", *text, "'"));
    }
    value = *text;
  }
  Describe({name, value, range, help, choices});
  return value;
}

void Params::CheckAllUsed() const {
  for (const auto& [name, value] : values_) {
    if (taken_.contains(name)) continue;
    throw Error(StrCat(where_, ": parameter '", name,
                       "': ", UnknownName(name, std::vector<std::string>(taken_.begin(), taken_.end()))));
  }
}

const std::map<std::string, ScorerInfo>& Scorers() {
  return Registered<ScorerInfo>();
}
const std::map<std::string, AllocatorInfo>& Allocators() {
  return Registered<AllocatorInfo>();
}
const std::map<std::string, StoreInfo>& Stores() {
  return Registered<StoreInfo>();
}
const std::map<std::string, CombinationInfo>& Combinations() {
  return Registered<CombinationInfo>();
}

ScorerRegistration::ScorerRegistration(ScorerInfo info) {
  Register(std::move(info));
}
AllocatorRegistration::AllocatorRegistration(AllocatorInfo info) {
  Register(std::move(info));
}
StoreRegistration::StoreRegistration(StoreInfo info) {
  Register(std::move(info));
}
CombinationRegistration::CombinationRegistration(CombinationInfo info) {
  Register(std::move(info));
}

std::string NearestName(const std::string& name, const std::vector<std::string>& known) {
  constexpr size_t kLongestName = 64;  // hostile input: the distance is quadratic
  if (name.empty() || name.size() > kLongestName) return "";
  std::string nearest;
  int smallest = 1 + std::max<int>(2, static_cast<int>(name.size()) / 3);
  for (const std::string& candidate : known) {
    const int distance = EditDistance(LowerCase(name), candidate);
    if (distance < smallest && distance < static_cast<int>(std::max(name.size(), candidate.size()))) {
      smallest = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string UnknownName(const std::string& name, const std::vector<std::string>& known) {
  const std::string nearest = NearestName(name, known);
  return nearest.empty() ? "unknown" : StrCat("unknown; did you mean ", nearest, "?");
}

}  // namespace kvscope
