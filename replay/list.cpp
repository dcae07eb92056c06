// SPDX-License-Identifier: Apache-2.0
#include "replay/list.h"

#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "replay/policy_spec.h"
#include "replay/registry.h"

namespace kvscope {
namespace {

using Json = nlohmann::ordered_json;
using Descriptions = std::vector<Params::Description>;

constexpr const char* kChunkSummary = "entries are ranked in chunks of N tokens by their mean priority";
constexpr const char* kBlockSummary = "entries are ranked in blocks of N tokens by their highest priority";
constexpr const char* kReaderSummary = "every step reads all that is kept";

// A policy's defaults, as the spec of its bare name has them.
struct Facts {
  Descriptions parameters;
  PolicySpec spec;
  PolicyNeeds needs;
};

Facts FactsOf(const ScorerInfo& info) {
  Facts facts;
  Params params;
  if (info.make) info.make(params);
  facts.parameters = params.descriptions();
  facts.spec = PolicySpec::Parse(info.name);
  facts.needs = facts.spec.Needs({1, 1, 1, 4, 4});
  return facts;
}

template <typename Info>
Descriptions ParametersOf(const Info& info) {
  Params params;
  info.make(params);
  return params.descriptions();
}

std::string Trigger(const PolicySpec& spec, const PolicyNeeds& needs) {
  if (needs.oracle) return "each query";
  if (spec.every == 0) return "once";
  return spec.every == 1 ? "each query" : StrCat("every ", spec.every, " queries");
}

std::string GrowthName(Growth growth) {
  return growth == Growth::kFixed ? "fixed" : "append";
}
std::string ScopeName(Scope scope) {
  return scope == Scope::kLayer ? "layer" : "kv_head";
}

void Row(std::ostringstream& out, const std::string& name, const std::string& kind, const std::string& summary) {
  out << "  " << std::left << std::setw(20) << name << std::setw(13) << kind << summary << '\n';
}

void WriteParameters(std::ostringstream& out, const Descriptions& parameters) {
  for (const Params::Description& parameter : parameters) {
    out << "  " << std::left << std::setw(28) << parameter.name + "=" + parameter.value << parameter.help << " ("
        << parameter.range << ")\n";
  }
}

void WriteCommon(std::ostringstream& out, const PlugInInfo& info, const std::string& what) {
  out << info.name << " (" << what << "): " << info.summary << '\n';
  if (!info.paper_url.empty()) out << "paper     " << info.paper_url << '\n';
  if (!info.departs.empty()) out << "departs   " << info.departs << '\n';
}

Json JsonOf(const PlugInInfo& info, const Descriptions& parameters) {
  Json json{{"name", info.name}, {"paper", info.paper_url}, {"summary", info.summary}, {"departs", info.departs}};
  json["parameters"] = Json::array();
  for (const Params::Description& parameter : parameters) {
    json["parameters"].push_back(
        {{"name", parameter.name}, {"default", parameter.value}, {"range", parameter.range}, {"help", parameter.help}});
  }
  return json;
}

std::string ParameterList(const Descriptions& parameters) {
  std::string list;
  for (const auto& parameter : parameters) {
    list += StrCat(list.empty() ? "" : ", ", "`", parameter.name, "=", parameter.value, "`");
  }
  return list;
}

std::string Linked(const PlugInInfo& info) {
  return info.paper_url.empty() ? info.name : StrCat("[", info.name, "](", info.paper_url, ")");
}

template <typename Info>
void MarkdownTable(std::ostringstream& out, const std::string& title, const std::map<std::string, Info>& infos) {
  out << "\n## " << title << "\n\n| name | what it does | parameters | departs |\n| --- | --- | --- | --- |\n";
  for (const auto& [name, info] : infos) {
    out << "| " << Linked(info) << " | " << info.summary << " | " << ParameterList(ParametersOf(info)) << " | "
        << info.departs << " |\n";
  }
}

}  // namespace

std::string ListText() {
  std::ostringstream out;
  out << "SPEC = name[+allocator][/chunk=N | /block=N][@store][&reader][:key=value...]\n\npolicies\n";
  for (const auto& [name, info] : Scorers()) Row(out, name, info.kind, info.summary);
  out << "\nallocators (+)\n";
  for (const auto& [name, info] : Allocators()) Row(out, name, "", info.summary);
  out << "\ngranularities (/)\n";
  Row(out, "chunk=N", "", kChunkSummary);
  Row(out, "block=N", "", kBlockSummary);
  out << "\nstores (@)\n";
  for (const auto& [name, info] : Stores()) Row(out, name, "", info.summary);
  out << "\nreaders (&)\n";
  Row(out, "all", "", kReaderSummary);
  out << "\ncombinations\n";
  for (const auto& [name, info] : Combinations()) Row(out, name, "", StrCat(info.spec, ": ", info.summary));
  out << "\nEvery policy accepts every=N (0: decide once), growth=append|fixed and prefill_chunk=N. "
         "kvscope replay explain NAME tells more.\n";
  return out.str();
}

std::string ListJson() {
  Json json{{"policies", Json::array()}, {"allocators", Json::array()}, {"granularities", Json::array()},
            {"stores", Json::array()},   {"readers", Json::array()},    {"combinations", Json::array()}};
  for (const auto& [name, info] : Scorers()) {
    const Facts facts = FactsOf(info);
    Json entry = JsonOf(info, facts.parameters);
    entry["class"] = info.kind;
    entry["every"] = facts.spec.every;
    entry["growth"] = GrowthName(facts.spec.growth);
    entry["scope"] = ScopeName(facts.needs.scope);
    entry["query_aware"] = facts.needs.query_aware;
    entry["fixed_rate"] = facts.needs.fixed_rate;
    entry["oracle"] = facts.needs.oracle;
    json["policies"].push_back(entry);
  }
  for (const auto& [name, info] : Allocators()) json["allocators"].push_back(JsonOf(info, ParametersOf(info)));
  for (const auto& [name, info] : Stores()) json["stores"].push_back(JsonOf(info, ParametersOf(info)));
  json["granularities"].push_back({{"name", "chunk=N"}, {"summary", kChunkSummary}});
  json["granularities"].push_back({{"name", "block=N"}, {"summary", kBlockSummary}});
  json["readers"].push_back({{"name", "all"}, {"summary", kReaderSummary}});
  for (const auto& [name, info] : Combinations()) {
    json["combinations"].push_back({{"name", name}, {"spec", info.spec}, {"summary", info.summary}});
  }
  return json.dump(2) + "\n";
}

std::string ListMarkdown() {
  std::ostringstream out;
  out << "# Policies\n\n"
         "Written by `kvscope replay list --markdown`; a test compares it. One file each in this folder (scorers) and "
         "in "
         "`../allocators`, `../stores`; any of them goes with any other: "
         "`name[+allocator][/chunk=N][@store][&reader][:key=value...]`, for example "
         "`snapkv+ada@int4:window=32:pool=5`.\n"
         "Every policy also accepts `every=N` (0: decide once, N: after every N-th query), `growth=append|fixed` and "
         "`prefill_chunk=N` (0: decide after the whole prefill, N: after N tokens and go on as in decode, so that the "
         "whole prompt is never held).\n"
         "How they compare on a real model: [STUDY.md](STUDY.md), written by `kvscope replay study adkvc`.\n"
         "\n## Scorers\n\n"
         "| name | class | what it does | decides | growth | scope | parameters | departs |\n"
         "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const auto& [name, info] : Scorers()) {
    const Facts facts = FactsOf(info);
    out << "| " << Linked(info) << " | " << info.kind << " | " << info.summary << " | "
        << Trigger(facts.spec, facts.needs) << " | " << GrowthName(facts.spec.growth) << " | "
        << ScopeName(facts.needs.scope) << " | " << ParameterList(facts.parameters) << " | " << info.departs << " |\n";
  }
  MarkdownTable(out, "Allocators", Allocators());
  out << "\n## Granularities\n\n| name | what it does |\n| --- | --- |\n| chunk=N | " << kChunkSummary << " |\n"
      << "| block=N | " << kBlockSummary << " |\n";
  MarkdownTable(out, "Stores", Stores());
  out << "\n## Readers\n\n| name | what it does |\n| --- | --- |\n| all | " << kReaderSummary << " |\n"
      << "\n## Combinations\n\n| name | stands for | what it is |\n| --- | --- | --- |\n";
  for (const auto& [name, info] : Combinations()) {
    out << "| " << Linked(info) << " | `" << info.spec << "` | " << info.summary << " |\n";
  }
  return out.str();
}

// A name may be taken twice (int4 is a store and a combination): each is told.
std::string Explain(const std::string& name) {
  std::ostringstream out;
  std::vector<std::string> known;
  const auto remember = [&](const std::string& other) {
    known.push_back(other);
    if (other != name) return false;
    if (out.tellp() > 0) out << '\n';
    return true;
  };
  for (const auto& [key, info] : Scorers()) {
    if (!remember(key)) continue;
    const Facts facts = FactsOf(info);
    WriteCommon(out, info, info.kind);
    out << "decides   " << Trigger(facts.spec, facts.needs) << ", growth=" << GrowthName(facts.spec.growth)
        << ", scope " << ScopeName(facts.needs.scope) << '\n';
    if (info.make) {
      out << "stands for " << key << "+" << info.allocator;
      if (info.granularity.chunk_tokens > 1) {
        out << (info.granularity.ranks_by_max ? "/block=" : "/chunk=") << info.granularity.chunk_tokens;
      }
      out << "@" << info.store << '\n';
    }
    for (const StatisticSpec& statistic : facts.needs.statistics) out << "reads     " << ToString(statistic) << '\n';
    if (facts.needs.state_bytes_per_entry > 0) {
      out << "state     " << facts.needs.state_bytes_per_entry << " bytes per entry of a "
          << (facts.needs.scope == Scope::kLayer ? "layer" : "KV head") << '\n';
    }
    WriteParameters(out, facts.parameters);
  }
  for (const auto& [key, info] : Allocators()) {
    if (!remember(key)) continue;
    WriteCommon(out, info, "allocator, +" + name);
    WriteParameters(out, ParametersOf(info));
  }
  for (const auto& [key, info] : Stores()) {
    if (!remember(key)) continue;
    WriteCommon(out, info, "store, @" + name);
    for (int head_dim : {64, 128}) {
      Params params;
      const std::unique_ptr<Store> store = info.make(params);
      out << "bytes     " << store->BytesPerEntry(head_dim, head_dim) << " per entry at head dimension " << head_dim
          << " (fp16: " << 4 * head_dim << ")";
      for (const uint8_t bits : store->ladder()) {
        out << "; at " << int{bits} << " bits " << store->BytesPerEntry(head_dim, head_dim, bits);
      }
      out << '\n';
    }
    WriteParameters(out, ParametersOf(info));
  }
  for (const auto& [key, info] : Combinations()) {
    if (!remember(key)) continue;
    WriteCommon(out, info, "combination, stands for " + info.spec);
    out << "in full   " << PolicySpec::Parse(name).parameters << '\n';
  }
  if (out.tellp() == 0) {
    throw Error(StrCat("explain '", name, "': ", UnknownName(name, known), " (kvscope replay list shows all)"));
  }
  return out.str();
}

}  // namespace kvscope
