// SPDX-License-Identifier: Apache-2.0
// SPEC = name[+allocator][/chunk=N | /block=N][@store][&reader][:key=value[:key=value]]
//        e.g. snapkv+ada@int4:window=32:pool=5
// Every policy also accepts every=N (0: decide once, 1: after each query), growth=append|fixed and prefill_chunk=N.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "replay/policy.h"
#include "replay/registry.h"
#include "replay/store.h"

namespace kvscope {

// A spec taken apart as written: nothing looked up, combinations not expanded. An empty part was not given.
struct SpecPieces {
  std::string scorer, allocator, chunk, store, reader;  // chunk: "chunk=8" or "block=32"
  std::map<std::string, std::string> values;
};
SpecPieces SplitSpec(const std::string& text);   // throws Error where the text has no such form
std::string JoinSpec(const SpecPieces& pieces);  // the inverse

// What the user asked to keep. The prompt (or context) before the decision is the whole.
struct BudgetSpec {
  enum class Unit { kFraction, kTokens, kCompressionRatio };  // the last in kvpress's sense: the part removed
  Unit unit = Unit::kFraction;
  double value = 1.0;
  void Check() const;  // throws Error when value is out of range
  // Entries per KV head. kFraction: floor(value * num_tokens * fp16 bytes / bytes per entry, state included);
  // kTokens: value; kCompressionRatio: int(num_tokens * (1 - value)). Always within [1, num_tokens].
  int Entries(int num_tokens, double fp16_bytes_per_entry, double bytes_per_entry) const;
};

// A parsed and checked spec: everything needed to make the policy's objects, any number of times.
class PolicySpec {
 public:
  // Throws Error: what is wrong, where, what was expected ("did you mean ...").
  static PolicySpec Parse(const std::string& text);

  std::string text;  // as given, combinations not expanded: the row's `policy`
  std::string scorer, allocator = "uniform", store = "fp16", reader = "all";
  Granularity granularity;
  std::string parameters;  // canonical key=value list, defaults included
  std::string kind;        // class column
  Growth growth = Growth::kAppend;
  int every = 0;
  int prefill_chunk = 0;  // 0: decides after the whole prefill; N: after N tokens, and goes on as in decode
  std::map<std::string, std::string> values;
  std::vector<Params::Description> choices;  // every parameter that it takes, with the value in force

  PolicyNeeds Needs(const ModelShape& shape) const;
  std::unique_ptr<Policy> MakePolicy(const Guards& guards) const;
  std::shared_ptr<const Store> MakeStore() const;
};

// Splits a comma-separated list of specs.
std::vector<std::string> SplitSpecs(const std::string& list);

}  // namespace kvscope
