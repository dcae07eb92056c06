// SPDX-License-Identifier: Apache-2.0
// Parts of a trace for other programs: recorded decode rows or column statistics of one head as CSV, JSON or NumPy's
// npz.
#pragma once

#include <string>

#include "core/trace_reader.h"

namespace kvscope {

enum class ExportFormat { kCsv, kJson, kNpz };
ExportFormat ExportFormatFromName(const std::string& name);

// layer and head are absolute numbers; both must be in the trace. Returns the whole file.
//   csv   step,query_token,token,weight: one line per weight
//   json  {layer, head, prompt_tokens, tokens: [id], rows: [{step, query_token, weights: [query_token + 1]}]}
//   npz   weights f16 [steps, tokens] with zeros behind the query token, query_token i32 [steps], token_id i32 [tokens]
std::string ExportRows(const TraceReader& trace, int layer, int head, ExportFormat format);
// Level relevance; rows: the number of query rows in the statistics.
//   csv   token,sum,max: one line per token
//   json  {layer, head, prompt_tokens, rows, tokens: [id], sum: [T], max: [T]}
//   npz   sum f32 [T], max f32 [T], rows i32 [1], token_id i32 [tokens]
std::string ExportColumns(const TraceReader& trace, int layer, int head, ExportFormat format);

}  // namespace kvscope
