// SPDX-License-Identifier: Apache-2.0
#include "replay/live/study_arms.h"

#include "core/error.h"

namespace kvscope {
namespace {

const std::vector<double> kDepths{0.5, 0, 1, 0.25, 0.75};
constexpr Guards kProposalGuards{4, 64};

const std::vector<std::string> kBaselines{
    "full",   "random",      "recent_window", "int8",          "int4",          "int2",        "h2o",    "tova",
    "snapkv", "ada_kv",      "pyramid_kv",    "streaming_llm", "dynamic_kv",    "fastkv",      "kivi_2", "kivi_4",
    "mikv",   "snapkv@int4", "h2o@int4",      "adkvc",         "adkvc_literal", "top_k_oracle"};
const std::vector<std::string> kGuarded{"random", "recent_window", "adkvc"};
const std::vector<std::string> kFew{"full", "adkvc", "adkvc_literal", "h2o", "snapkv", "snapkv@int4", "int4", "random"};

// One factor at a time around adkvc and, at the end of the second group, around its literal form: tracker and
// half-life; granularity, scope, what bits harm, ladder, what is done; the rule that places the thresholds, the
// trigger, the store.
const std::vector<std::string> kAblations{"adkvc",
                                          "adkvc:tracker=max",
                                          "adkvc:tracker=max:gate=64",
                                          "adkvc:tracker=mean",
                                          "adkvc:tracker=sum",
                                          "adkvc:half_life=1",
                                          "adkvc:half_life=8",
                                          "adkvc:half_life=16",
                                          "adkvc:half_life=32",
                                          "adkvc:half_life=128",
                                          "adkvc:half_life=256",
                                          "adkvc:half_life=1024",
                                          "adkvc/block=1",
                                          "adkvc/block=4",
                                          "adkvc/block=16",
                                          "adkvc/block=32",
                                          "adkvc/chunk=8",
                                          "adkvc:scope=kv_head",
                                          "adkvc:harm=relative",
                                          "adkvc:harm=output",
                                          "adkvc_literal",
                                          "adkvc_literal:ladder=16-8-4",
                                          "adkvc:ladder=8-4",
                                          "adkvc:ladder=16-4",
                                          "adkvc:ladder=4",
                                          "adkvc:harm=relative:ladder=16-2",
                                          "adkvc+uniform",
                                          "adkvc:drop=last",
                                          "adkvc:power=2",
                                          "adkvc:share=layer",
                                          "adkvc:floor=0",
                                          "adkvc:floor=0.5",
                                          "adkvc+quantile",
                                          "adkvc+thresholds:theta_high=0.01:theta_low=0.001",
                                          "adkvc+thresholds:theta_high=0.003:theta_low=0.0003",
                                          "adkvc+thresholds:theta_high=0.001:theta_low=0.0001",
                                          "adkvc:every=1",
                                          "adkvc:every=4",
                                          "adkvc:every=0:growth=append",
                                          "adkvc:prefill_chunk=512:every=64",
                                          "adkvc@mixed:balance=key",
                                          "adkvc@mixed:balance=query_key",
                                          "adkvc@mixed:group=32",
                                          "adkvc@mixed:source=original",
                                          "adkvc:oracle=relevance"};
// The ends of the half-life path, as published.
const std::vector<std::string> kPathEnds{"full", "tova", "snapkv", "observed_attention", "h2o"};

TaskFlags Niah(const StudyTexts& texts, int context, int repeats, std::vector<double> depths = kDepths) {
  TaskFlags task;
  task.haystack = texts.haystack;
  task.contexts = {context};
  task.depths = std::move(depths);
  task.repeats = repeats;
  return task;
}

TaskFlags Text(const std::string& file, int context) {
  TaskFlags task;
  task.task = "text";
  task.file = file;
  task.contexts = {context};
  return task;
}

void Add(const std::vector<std::string>& specs, const std::vector<double>& fractions, const Guards& guards,
         std::vector<PlanRequest>& requests) {
  for (const std::string& text : specs) {
    PlanRequest request;
    request.spec = PolicySpec::Parse(text);
    request.guards = guards;
    const bool is_fixed_rate = request.spec.Needs({1, 1, 1, 16, 16}).fixed_rate;
    for (const double fraction : fractions) {
      request.budget = {BudgetSpec::Unit::kFraction, is_fixed_rate ? 1.0 : fraction};
      requests.push_back(request);
      if (is_fixed_rate) break;
    }
  }
}

std::vector<PlanRequest> Requests(const std::vector<std::string>& specs, const std::vector<double>& fractions) {
  std::vector<PlanRequest> requests;
  Add(specs, fractions, {}, requests);
  return requests;
}

// Every choice of a few factors, each with each.
std::vector<std::string> AllCombinations() {
  std::vector<std::string> specs;
  for (const char* granularity : {"", "/block=1", "/block=32"}) {
    for (const char* tracker : {"", ":half_life=8", ":half_life=256", ":tracker=max:gate=64", ":tracker=mean"}) {
      for (const char* scope : {"", ":scope=kv_head"}) {
        for (const char* ladder : {"", ":harm=relative", ":ladder=4"}) {
          for (const char* power : {"", ":power=2"}) {
            for (const char* every : {"", ":every=1"}) {
              specs.push_back(StrCat("adkvc", granularity, tracker, scope, ladder, power, every));
            }
          }
        }
      }
    }
  }
  return specs;
}

}  // namespace

std::vector<ArmPlan> AdkvcArms(StudySize size, const StudyTexts& texts) {
  const bool is_quick = size == StudySize::kQuick, is_full = size == StudySize::kFull;
  const int context = is_quick ? 512 : 2048;
  const std::vector<std::string>& compared = is_full ? kBaselines : kFew;

  ArmPlan main{.name = "main", .question = "Which policy still answers, at equal bytes?", .tasks = {}, .requests = {}};
  main.tasks = {is_quick ? Niah(texts, context, 1, {0.5}) : Niah(texts, context, 4)};
  const std::vector<double> fractions = is_quick ? std::vector{0.5, 0.25} : std::vector{0.75, 0.5, 0.25, 0.1};
  Add(kBaselines, fractions, {}, main.requests);
  Add(kGuarded, fractions, kProposalGuards, main.requests);
  main.protocols = {Protocol::kContext, Protocol::kPrompt};
  main.replayed_prompts = is_quick ? 1 : 5;

  ArmPlan length{.name = "length", .question = "Does it hold at other lengths?", .tasks = {}, .requests = {}};
  length.tasks = is_quick ? std::vector{Niah(texts, 768, 1, {0.5})}
                          : std::vector{Niah(texts, 1024, 4), Niah(texts, 4096, is_full ? 4 : 2)};
  length.requests = Requests(compared, {0.5, 0.25});

  ArmPlan more{.name = "fractions", .question = "And at other fractions?", .tasks = {}, .requests = {}};
  more.tasks = {is_quick ? Niah(texts, context, 1, {0.5}) : Niah(texts, context, 4)};
  more.requests = Requests(compared, {0.9, 0.33, 0.167});

  ArmPlan doors{.name = "doors", .question = "Can it look up one of three needles?", .tasks = {}, .requests = {}};
  doors.tasks = {is_quick ? Niah(texts, context, 1, {0.5}) : Niah(texts, context, 4)};
  doors.tasks[0].doors = 3;
  doors.requests = Requests(compared, {0.5, 0.25});

  ArmPlan perplexity{.name = "perplexity", .question = "What does it cost in perplexity?", .tasks = {}, .requests = {}};
  for (const int tokens : is_quick ? std::vector{512} : std::vector{2048, 4096}) {
    for (const std::string& file : {texts.haystack, texts.second}) perplexity.tasks.push_back(Text(file, tokens));
  }
  perplexity.requests = Requests(compared, {0.5, 0.25});
  // Like the policies that decide once: what comes later is added and billed.
  Add({"adkvc:every=0:growth=append"}, {0.5, 0.25}, {}, perplexity.requests);
  perplexity.protocols = {Protocol::kContext};

  ArmPlan ablation{.name = "ablation", .question = "Which part of the method does it?", .tasks = {}, .requests = {}};
  ablation.tasks = {is_quick ? Niah(texts, context, 1, {0.5}) : Niah(texts, context, 2)};
  ablation.requests = Requests(kPathEnds, {0.5, 0.25});
  Add(is_full ? AllCombinations() : kAblations, {0.5, 0.25}, {}, ablation.requests);
  Add({"adkvc"}, {0.5, 0.25}, kProposalGuards, ablation.requests);
  Add({"adkvc"}, {0.5, 0.25}, {4, 16}, ablation.requests);
  ablation.replayed_prompts = 1;

  return {main, perplexity, ablation, more, doors, length};
}

}  // namespace kvscope
