// SPDX-License-Identifier: Apache-2.0
#include "replay/policy_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"

namespace kvscope {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

std::string MessageOf(const std::string& spec) {
  try {
    PolicySpec::Parse(spec);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(PolicySpec, ReadsEveryPart) {
  const PolicySpec spec = PolicySpec::Parse("snapkv+ada/chunk=16@int4&all:window=8:pool=7:every=0:growth=append");
  EXPECT_EQ(spec.scorer, "snapkv");
  EXPECT_EQ(spec.allocator, "ada");
  EXPECT_EQ(spec.granularity.chunk_tokens, 16);
  EXPECT_EQ(spec.store, "int4");
  EXPECT_EQ(spec.reader, "all");
  EXPECT_EQ(spec.kind, "eviction+quantization");
  EXPECT_THAT(spec.parameters, HasSubstr("window=8"));
  EXPECT_THAT(spec.parameters, HasSubstr("pooling=avg"));
  EXPECT_THAT(spec.parameters, HasSubstr("alpha=0.2"));
  EXPECT_EQ(spec.MakeStore()->bits(), 4);
}

TEST(PolicySpec, ParametersAreCanonicalAndParseAgain) {
  for (const char* text : {"snapkv", "h2o", "adkvc:tracker=max", "tova", "ada_kv", "observed_attention",
                           "adkvc:half_life=12.3456789012"}) {
    const PolicySpec spec = PolicySpec::Parse(text);
    const PolicySpec again = PolicySpec::Parse(spec.scorer + "+" + spec.allocator + ":" + spec.parameters);
    EXPECT_EQ(again.parameters, spec.parameters) << text;
  }
}

TEST(PolicySpec, TakesTriggerAndGrowthFromThePaperUnlessAsked) {
  EXPECT_EQ(PolicySpec::Parse("h2o").every, 1);
  EXPECT_EQ(PolicySpec::Parse("h2o").growth, Growth::kFixed);
  EXPECT_EQ(PolicySpec::Parse("snapkv").every, 0);
  EXPECT_EQ(PolicySpec::Parse("snapkv").growth, Growth::kAppend);
  EXPECT_EQ(PolicySpec::Parse("adkvc").every, 16);
  EXPECT_EQ(PolicySpec::Parse("h2o:every=4").every, 4);
  EXPECT_EQ(PolicySpec::Parse("h2o:every=0").growth, Growth::kAppend);
  EXPECT_EQ(PolicySpec::Parse("snapkv:every=1:growth=fixed").growth, Growth::kFixed);
  EXPECT_THAT(MessageOf("snapkv:growth=fixed"), HasSubstr("growth=fixed: expected every=N above 0"));
}

TEST(PolicySpec, StateIsBilledOnlyWhenItIsKept) {
  const ModelShape shape{30, 9, 3, 64, 64};
  EXPECT_EQ(PolicySpec::Parse("h2o").Needs(shape).state_bytes_per_entry, 4);
  EXPECT_EQ(PolicySpec::Parse("h2o:growth=append").Needs(shape).state_bytes_per_entry, 0);
  EXPECT_NEAR(PolicySpec::Parse("adkvc+uniform").Needs(shape).state_bytes_per_entry, 4.0 / 3, 1e-12);
  EXPECT_EQ(PolicySpec::Parse("adkvc+uniform:scope=kv_head").Needs(shape).state_bytes_per_entry, 4);
  EXPECT_EQ(PolicySpec::Parse("adkvc:scope=kv_head").Needs(shape).state_bytes_per_entry, 4.25) << "and two bits' tag";
}

TEST(PolicySpec, ExpandsCombinationsAndLetsTheUserOverrideThem) {
  const PolicySpec ada = PolicySpec::Parse("ada_kv");
  EXPECT_EQ(ada.text, "ada_kv");
  EXPECT_EQ(ada.scorer, "snapkv");
  EXPECT_EQ(ada.allocator, "ada");
  const PolicySpec changed = PolicySpec::Parse("ada_kv@int8:window=16");
  EXPECT_EQ(changed.store, "int8");
  EXPECT_EQ(changed.allocator, "ada");
  EXPECT_EQ(changed.values.at("window"), "16");
  EXPECT_EQ(PolicySpec::Parse("int4").kind, "quantization");
  EXPECT_EQ(PolicySpec::Parse("int4").scorer, "full");
  const PolicySpec observed = PolicySpec::Parse("observed_attention");
  EXPECT_EQ(observed.scorer, "h2o");
  EXPECT_EQ(observed.every, 0);
  EXPECT_EQ(PolicySpec::Parse("observed_attention:every=2:growth=fixed").every, 2);
}

TEST(PolicySpec, SaysWhatIsUnknownAndWhatWasMeant) {
  EXPECT_EQ(MessageOf("snapk"), "policy 'snapk': unknown; did you mean snapkv? (kvscope replay list shows all)");
  EXPECT_EQ(MessageOf("zzzzzzzz"), "policy 'zzzzzzzz': unknown (kvscope replay list shows all)");
  EXPECT_EQ(MessageOf("pyramid_v"),
            "policy 'pyramid_v': unknown; did you mean pyramid_kv? (kvscope replay list shows all)");
  EXPECT_EQ(MessageOf("snapkv+adaa"),
            "policy 'snapkv+adaa': allocator 'adaa': unknown; did you mean ada? (kvscope replay list shows all)");
  EXPECT_EQ(MessageOf("full@int44"),
            "policy 'full@int44': store 'int44': unknown; did you mean int4? (kvscope replay list shows all)");
  EXPECT_EQ(MessageOf("snapkv:windw=3"), "policy 'snapkv:windw=3': parameter 'windw': unknown; did you mean window?");
  EXPECT_THAT(MessageOf("snapkv&quest"), HasSubstr("reader 'quest'"));
  EXPECT_THAT(MessageOf("snapk:window=3"),
              StartsWith("policy 'snapk:window=3': policy 'snapk' is unknown; did you mean"));
}

TEST(PolicySpec, RefusesWhatDoesNotFollowTheGrammar) {
  for (const char* bad : {"",
                          ":",
                          "+ada",
                          "snapkv+",
                          "snapkv@int4+ada",
                          "snapkv+ada+ada",
                          "snapkv/16",
                          "snapkv/chunk=",
                          "snapkv/chunk=0",
                          "snapkv/chunk=x",
                          "snapkv/chunk=99999999999",
                          "snapkv:window",
                          "snapkv:=3",
                          "snapkv:window=",
                          "snapkv:window=3:window=4",
                          "snapkv:window=3:",
                          "snapkv:every=-1",
                          "snapkv:every=nan",
                          "snapkv:growth=both",
                          "snapkv:pool=4",
                          "adkvc:half_life=nan",
                          "adkvc:half_life=0",
                          "h2o:recent_fraction=inf",
                          "snapkv@"}) {
    EXPECT_THAT(MessageOf(bad), StartsWith(std::string("policy '") + bad + "'")) << bad;
  }
  EXPECT_EQ(MessageOf("snap\nkv"), "policy spec: expected printable ASCII, found byte 10 at character 5");
  EXPECT_THAT(MessageOf(std::string(5000, 'a')), HasSubstr("at most 1000 characters"));
  EXPECT_THAT(MessageOf("snap\nkv" + std::string(5000, 'a')), HasSubstr("found byte 10")) << "one line, however long";
}

TEST(PolicySpec, RefusesBudgetsPerHeadForPoliciesOfAWholeLayer) {
  EXPECT_THAT(MessageOf("tova+ada"), HasSubstr("keeps the same tokens in all KV heads"));
  EXPECT_THAT(MessageOf("adkvc+ada"), HasSubstr("keeps the same tokens in all KV heads"));
  EXPECT_EQ(MessageOf("adkvc+ada:scope=kv_head"), "no error");
  EXPECT_EQ(MessageOf("tova+pyramid"), "no error");
  EXPECT_THAT(MessageOf("top_k_oracle+ada"), HasSubstr("takes no +allocator"));
}

TEST(PolicySpec, SplitsLists) {
  EXPECT_THAT(SplitSpecs("full,snapkv+ada@int4:window=32:pool=5"),
              ElementsAre("full", "snapkv+ada@int4:window=32:pool=5"));
  EXPECT_THAT(SplitSpecs("full,"), ElementsAre("full", ""));
}

TEST(BudgetSpec, CountsEntriesInEachUnit) {
  using Unit = BudgetSpec::Unit;
  const auto entries = [](Unit unit, double value, int tokens, double bytes = 256) {
    return BudgetSpec{unit, value}.Entries(tokens, 256, bytes);
  };
  EXPECT_EQ(entries(Unit::kFraction, 0.25, 1000), 250);
  EXPECT_EQ(entries(Unit::kFraction, 0.29, 100), 29);
  EXPECT_EQ(entries(Unit::kFraction, 0.25, 1000, 260), 246);  // h2o's state: 0.25 * 1000 * 256 / 260
  EXPECT_EQ(entries(Unit::kFraction, 0.5, 1000, 72), 1000);   // int4 needs less than the budget: all stay
  EXPECT_EQ(entries(Unit::kFraction, 1e-9, 1000), 1);
  EXPECT_EQ(entries(Unit::kTokens, 64, 1000), 64);
  EXPECT_EQ(entries(Unit::kTokens, 64, 10), 10);
  EXPECT_EQ(entries(Unit::kCompressionRatio, 0.75, 1000), 250);
  EXPECT_EQ(entries(Unit::kCompressionRatio, 0.7, 10), 3);
  EXPECT_EQ(entries(Unit::kCompressionRatio, 0.9, 100), 9);  // int(100 * (1 - 0.9)): kvpress's float trap
}

TEST(BudgetSpec, RefusesWhatIsNoBudget) {
  using Unit = BudgetSpec::Unit;
  const auto refuses = [](Unit unit, double value) { EXPECT_THROW(BudgetSpec({unit, value}).Check(), Error) << value; };
  for (double bad : {0.0, -0.5, 1.01, double(NAN), double(INFINITY)}) refuses(Unit::kFraction, bad);
  for (double bad : {0.0, 0.5, -3.0, 1.5, double(NAN), 1e12}) refuses(Unit::kTokens, bad);
  for (double bad : {1.0, -0.1, double(NAN)}) refuses(Unit::kCompressionRatio, bad);
  try {
    BudgetSpec{Unit::kFraction, 1.5}.Check();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "--keep-fraction: expected a number above 0 and at most 1, found 1.5");
  }
}

}  // namespace
}  // namespace kvscope
