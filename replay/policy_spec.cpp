// SPDX-License-Identifier: Apache-2.0
#include "replay/policy_spec.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "replay/composed_policy.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

constexpr size_t kLongestSpec = 1000;
constexpr int kManyTokens = 1 << 22;  // as far as ProtectedPriority tells tokens apart

template <typename Info>
std::vector<std::string> NamesOf(const std::map<std::string, Info>& infos) {
  std::vector<std::string> names;
  for (const auto& [name, info] : infos) names.push_back(name);
  return names;
}

std::string Where(const std::string& text) {
  return StrCat("policy '", text, "'");
}

void SplitHead(const std::string& head, const std::string& where, SpecPieces& pieces) {
  const std::string marks = "+/@&";
  size_t begin = 0, last_mark = 0;
  std::string* target = &pieces.scorer;
  while (true) {
    const size_t end = std::min(head.find_first_of(marks, begin), head.size());
    *target = head.substr(begin, end - begin);
    if (target->empty()) {
      throw Error(StrCat(where, ": expected name[+allocator][/chunk=N][@store][&reader][:key=value], found nothing ",
                         begin == 0 ? "where the name belongs" : StrCat("after '", head[begin - 1], "'")));
    }
    if (end == head.size()) return;
    const size_t mark = marks.find(head[end]);
    if (begin != 0 && mark <= last_mark) {
      throw Error(StrCat(where, ": '", head[end],
                         "' comes twice or too late; the order is "
                         "name[+allocator][/chunk=N][@store][&reader]"));
    }
    last_mark = mark;
    std::string* const targets[] = {&pieces.allocator, &pieces.chunk, &pieces.store, &pieces.reader};
    target = targets[mark];
    begin = end + 1;
  }
}

}  // namespace

SpecPieces SplitSpec(const std::string& text) {
  const std::string where = Where(text);
  SpecPieces pieces;
  size_t end = std::min(text.find(':'), text.size());
  SplitHead(text.substr(0, end), where, pieces);
  while (end < text.size()) {
    const size_t begin = end + 1;
    end = std::min(text.find(':', begin), text.size());
    const std::string pair = text.substr(begin, end - begin);
    const size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == pair.size()) {
      throw Error(StrCat(where, ": expected key=value after ':', found '", pair, "'"));
    }
    if (!pieces.values.emplace(pair.substr(0, equals), pair.substr(equals + 1)).second) {
      throw Error(StrCat(where, ": parameter '", pair.substr(0, equals), "' is given twice"));
    }
  }
  return pieces;
}

std::string JoinSpec(const SpecPieces& pieces) {
  std::string text = pieces.scorer;
  if (!pieces.allocator.empty()) text += "+" + pieces.allocator;
  if (!pieces.chunk.empty()) text += "/" + pieces.chunk;
  if (!pieces.store.empty()) text += "@" + pieces.store;
  if (!pieces.reader.empty()) text += "&" + pieces.reader;
  for (const auto& [name, value] : pieces.values) text += StrCat(":", name, "=", value);
  return text;
}

namespace {

// A combination stands for another spec; what the user adds wins over it.
SpecPieces Expand(const SpecPieces& given) {
  const auto combination = Combinations().find(given.scorer);
  if (combination == Combinations().end()) return given;
  SpecPieces pieces = SplitSpec(combination->second.spec);
  for (const auto part : {&SpecPieces::allocator, &SpecPieces::chunk, &SpecPieces::store, &SpecPieces::reader}) {
    if (!(given.*part).empty()) pieces.*part = given.*part;
  }
  for (const auto& [key, value] : given.values) pieces.values[key] = value;
  return pieces;
}

template <typename Info>
const Info& Find(const std::map<std::string, Info>& infos, const std::string& name, const std::string& where) {
  const auto found = infos.find(name);
  if (found == infos.end()) {
    throw Error(StrCat(where, ": ", UnknownName(name, NamesOf(infos)), " (kvscope replay list shows all)"));
  }
  return found->second;
}

Granularity ParseGranularity(const std::string& text, const std::string& where) {
  for (const std::string prefix : {"chunk=", "block="}) {
    if (!text.starts_with(prefix)) continue;
    Granularity granularity{0, prefix == "block="};
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + prefix.size(), end, granularity.chunk_tokens);
    if (error != std::errc{} || stop != end) break;
    if (granularity.chunk_tokens >= 1 && granularity.chunk_tokens <= kManyTokens) return granularity;
  }
  throw Error(StrCat(where, ": granularity: expected chunk=N or block=N with N from 1 to ", kManyTokens, ", found '",
                     text, "'"));
}

bool SpendsBits(const std::string& allocator) {
  Params defaults;
  return Allocators().at(allocator).make(defaults)->spends_bits();
}
bool HasLadder(const std::string& store) {
  Params defaults;
  return !Stores().at(store).make(defaults)->ladder().empty();
}

std::string KindOf(const ScorerInfo& info, const std::string& store, const PolicyNeeds& needs) {
  if (needs.oracle) return "oracle";
  const bool is_quantized = store != "fp16" && store != "fp32";
  if (!is_quantized) return info.kind;
  return needs.fixed_rate ? "quantization" : info.kind + "+quantization";
}

struct Made {
  std::unique_ptr<Policy> policy;
  std::shared_ptr<const Store> store;
  Params params;
  PolicySettings settings;
  int prefill_chunk = 0;
};

// Parameters that every policy takes, beside its parts' own.
void AskCommon(const ScorerInfo& info, int default_every, const std::string& where, Made& made) {
  made.settings.every =
      made.params.Int("every", default_every, 0, 1 << 20, "0: decide once; N: after every N-th query");
  // Without a trigger after the decision nothing can keep the size fixed.
  const bool default_fixed = info.growth == Growth::kFixed && made.settings.every > 0;
  const std::string growth = made.params.Choice("growth", default_fixed ? "fixed" : "append", {"append", "fixed"},
                                                "append: later entries are added and billed; fixed: the budget holds");
  made.settings.growth = growth == "fixed" ? Growth::kFixed : Growth::kAppend;
  made.prefill_chunk = made.params.Int("prefill_chunk", 0, 0, 1 << 20,
                                       "0: decide after the whole prefill; N: after N tokens, and go on as in decode");
  const bool is_fixed = made.settings.growth == Growth::kFixed;
  if (info.make && is_fixed && made.settings.every == 0) {
    throw Error(StrCat(where, ": growth=fixed: expected every=N above 0 with it, found every=0"));
  }
  if (made.prefill_chunk > 0 && (!is_fixed || made.settings.every == 0)) {
    throw Error(StrCat(where, ": prefill_chunk=", made.prefill_chunk,
                       ": expected every=N and growth=fixed with it, since the cache must shrink as it goes"));
  }
  if (info.make && is_fixed && made.store->groups_tokens()) {
    throw Error(StrCat(where,
                       ": this store packs keys of several tokens together, which per-step eviction would tear; "
                       "use every=0:growth=append or another store"));
  }
}

// Makes every object of a spec whose names are known; checks parameters when `check`.
Made Make(const PolicySpec& spec, const Guards& guards) {
  const std::string where = Where(spec.text);
  const ScorerInfo& info = Scorers().at(spec.scorer);
  Made made;
  made.params = Params(where, spec.values);
  made.settings.guards = guards;
  made.settings.granularity = spec.granularity;
  ComposedPolicy::Parts parts;
  int default_every = 0;
  if (info.make) {
    parts.scorer = info.make(made.params);
    default_every = parts.scorer->Needs({1, 1, 1, 4, 4}).every;
    parts.allocator = Allocators().at(spec.allocator).make(made.params);
  }
  made.store = Stores().at(spec.store).make(made.params);
  if (info.make && parts.allocator->spends_bits() && made.store->ladder().empty()) {
    throw Error(StrCat(where, ": +", spec.allocator, " gives every entry bits of its own, but @", spec.store,
                       " has one kind of entry; use @mixed"));
  }
  AskCommon(info, default_every, where, made);
  if (!info.make) {
    made.policy = info.make_policy(made.params, made.settings);
    return made;
  }
  if (made.prefill_chunk > 0 && spec.allocator != "uniform" && !parts.allocator->spends_bits()) {
    throw Error(StrCat(where, ": prefill_chunk: expected +uniform or an allocator of bits with it, found +",
                       spec.allocator, ", which shares out one prompt's entries"));
  }
  if (made.prefill_chunk > 0 && parts.scorer->Needs({1, 1, 1, 4, 4}).propagates_after >= 0) {
    throw Error(StrCat(where, ": prefill_chunk: expected 0, as upper layers have a part of the tokens only, found ",
                       made.prefill_chunk));
  }
  parts.store = made.store;
  made.policy = std::make_unique<ComposedPolicy>(where, std::move(parts), made.settings);
  return made;
}

}  // namespace

void BudgetSpec::Check() const {
  switch (unit) {
    case Unit::kFraction:
      if (value > 0 && value <= 1) return;
      throw Error(StrCat("--keep-fraction: expected a number above 0 and at most 1, found ", value));
    case Unit::kTokens:
      if (value >= 1 && value <= kManyTokens && value == std::floor(value)) return;
      throw Error(StrCat("--keep-tokens: expected an integer from 1 to ", kManyTokens, ", found ", value));
    case Unit::kCompressionRatio:
      if (value >= 0 && value < 1) return;
      throw Error(StrCat("--compression-ratio: expected a number from 0 to below 1 (the part removed), found ", value));
  }
}

int BudgetSpec::Entries(int num_tokens, double fp16_bytes_per_entry, double bytes_per_entry) const {
  Check();
  KVSCOPE_CHECK(num_tokens >= 1 && bytes_per_entry > 0);
  double entries = value;
  if (unit == Unit::kFraction) {
    entries = value * num_tokens * (fp16_bytes_per_entry / bytes_per_entry);
    entries *= 1 + 1e-12;  // 0.29 of 100 entries are 29, not 28.999999999999996
  } else if (unit == Unit::kCompressionRatio) {
    entries = num_tokens * (1 - value);  // kvpress's rounding, float traps included
  }
  return static_cast<int>(std::clamp(std::floor(entries), 1.0, static_cast<double>(num_tokens)));
}

PolicySpec PolicySpec::Parse(const std::string& text) {
  for (size_t place = 0; place < text.size(); ++place) {
    const int byte = static_cast<unsigned char>(text[place]);
    if (byte >= ' ' && byte <= '~') continue;
    throw Error(StrCat("policy spec: expected printable ASCII, found byte ", byte, " at character ", place + 1));
  }
  if (text.size() > kLongestSpec) {
    throw Error(StrCat("policy '", text.substr(0, 40), "...': expected at most ", kLongestSpec, " characters, found ",
                       text.size()));
  }
  const std::string where = Where(text);
  const SpecPieces given = SplitSpec(text);
  const SpecPieces pieces = Expand(given);
  PolicySpec spec;
  spec.text = text;
  spec.scorer = pieces.scorer;
  spec.values = pieces.values;
  if (!Scorers().contains(spec.scorer)) {
    std::vector<std::string> known = NamesOf(Scorers());
    for (const auto& [name, info] : Combinations()) known.push_back(name);
    throw Error(StrCat(where, ": ", spec.scorer == text ? "" : StrCat("policy '", spec.scorer, "' is "),
                       UnknownName(spec.scorer, known), " (kvscope replay list shows all)"));
  }
  const ScorerInfo& info = Scorers().at(spec.scorer);
  spec.allocator = pieces.allocator.empty() ? info.allocator : pieces.allocator;
  spec.store = pieces.store.empty() ? info.store : pieces.store;
  spec.granularity = pieces.chunk.empty() ? info.granularity : ParseGranularity(pieces.chunk, where);
  if (!pieces.reader.empty()) spec.reader = pieces.reader;
  Find(Allocators(), spec.allocator, StrCat(where, ": allocator '", spec.allocator, "'"));
  Find(Stores(), spec.store, StrCat(where, ": store '", spec.store, "'"));
  // A scorer's own allocator of bits and its store go together: who names one without bits gets none.
  if (pieces.allocator.empty() && !HasLadder(spec.store)) spec.allocator = "uniform";
  if (pieces.store.empty() && !SpendsBits(spec.allocator)) spec.store = "fp16";
  if (spec.reader != "all") {
    throw Error(StrCat(where, ": reader '", spec.reader, "': unknown; the only reader is all"));
  }
  if (info.make_policy && (spec.allocator != "uniform" || !pieces.chunk.empty())) {
    throw Error(StrCat(where, ": ", spec.scorer, " is not a scorer: it takes no +allocator and no /chunk="));
  }

  const Made made = Make(spec, {});
  made.params.CheckAllUsed();
  const PolicyNeeds needs = made.policy->Needs({1, 1, 1, 4, 4});  // throws when the allocator does not fit
  spec.kind = KindOf(info, spec.store, needs);
  spec.every = made.settings.every;
  spec.growth = made.settings.growth;
  spec.prefill_chunk = made.prefill_chunk;
  spec.choices = made.params.descriptions();
  for (const Params::Description& parameter : spec.choices) {
    spec.parameters += StrCat(spec.parameters.empty() ? "" : ":", parameter.name, "=", parameter.value);
  }
  return spec;
}

PolicyNeeds PolicySpec::Needs(const ModelShape& shape) const {
  return Make(*this, {}).policy->Needs(shape);
}

std::unique_ptr<Policy> PolicySpec::MakePolicy(const Guards& guards) const {
  return std::move(Make(*this, guards).policy);
}

std::shared_ptr<const Store> PolicySpec::MakeStore() const {
  return Make(*this, {}).store;
}

std::vector<std::string> SplitSpecs(const std::string& list) {
  std::vector<std::string> specs;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    specs.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return specs;
}

}  // namespace kvscope
