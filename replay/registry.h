// SPDX-License-Identifier: Apache-2.0
// Plug-ins register themselves: one static object in their own file, and nothing central lists them.
//   const ScorerRegistration registration({{.name = "h2o", .paper_url = ..., .summary = ...}, .make = ...});
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "replay/policy.h"
#include "replay/store.h"

namespace kvscope {

// key=value pairs of a policy spec. A plug-in asks for each parameter it knows, with default and range; what nobody
// asked for is an Error ("did you mean ..."). The questions asked are the plug-in's documentation.
class Params {
 public:
  struct Description {
    std::string name, value, range, help;  // value: the one in force
    std::vector<std::string> choices{};    // of a text; empty for numbers
    double min = 0, max = 0;               // of a number
    bool is_integer = false;
  };
  Params() = default;  // all defaults
  Params(std::string where, std::map<std::string, std::string> values);

  int Int(const std::string& name, int default_value, int min, int max, const std::string& help);
  double Real(const std::string& name, double default_value, double min, double max, const std::string& help);
  std::string Choice(const std::string& name, const std::string& default_value, const std::vector<std::string>& choices,
                     const std::string& help);
  const std::string& where() const { return where_; }  // starts every error message
  void CheckAllUsed() const;                           // throws for values that nobody asked for
  const std::vector<Description>& descriptions() const { return descriptions_; }

 private:
  std::optional<std::string> Take(const std::string& name);
  void Describe(Description description);
  std::string where_;
  std::map<std::string, std::string> values_;
  std::set<std::string> taken_;
  std::vector<Description> descriptions_;
};

struct PlugInInfo {
  std::string name;
  std::string paper_url;  // empty for baselines
  std::string summary;    // one line
  std::string departs;    // where we differ from the paper; empty: nowhere
};

struct ScorerInfo : PlugInInfo {
  std::string kind = "eviction";  // class column: baseline | eviction | oracle ...
  Growth growth = Growth::kAppend;
  std::function<std::unique_ptr<Scorer>(Params&)> make;
  // For methods that do not fit the grid: makes the whole policy; `make` is then empty.
  std::function<std::unique_ptr<Policy>(Params&, const PolicySettings&)> make_policy;
  // What a spec that names none gets. An allocator of bits only with a store that has a ladder.
  std::string allocator = "uniform", store = "fp16";
  Granularity granularity = {};
};
struct AllocatorInfo : PlugInInfo {
  std::function<std::unique_ptr<Allocator>(Params&)> make;
};
struct StoreInfo : PlugInInfo {
  std::function<std::unique_ptr<Store>(Params&)> make;
};
struct CombinationInfo : PlugInInfo {
  std::string spec;  // ada_kv = snapkv+ada
};

// All registered plug-ins of a kind, ascending by name.
const std::map<std::string, ScorerInfo>& Scorers();
const std::map<std::string, AllocatorInfo>& Allocators();
const std::map<std::string, StoreInfo>& Stores();
const std::map<std::string, CombinationInfo>& Combinations();

struct ScorerRegistration {
  explicit ScorerRegistration(ScorerInfo info);
};
struct AllocatorRegistration {
  explicit AllocatorRegistration(AllocatorInfo info);
};
struct StoreRegistration {
  explicit StoreRegistration(StoreInfo info);
};
struct CombinationRegistration {
  explicit CombinationRegistration(CombinationInfo info);
};

// The nearest known name, or empty when none is near.
std::string NearestName(const std::string& name, const std::vector<std::string>& known);
// "unknown; did you mean snapkv?", the question only when something is near.
std::string UnknownName(const std::string& name, const std::vector<std::string>& known);

}  // namespace kvscope
