// SPDX-License-Identifier: Apache-2.0
#include "tests/support/core_harmed_traces.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/core_files.h"

namespace kvscope {

std::span<const HarmCase> HarmCases() {
  static constexpr HarmCase kCases[] = {
      {"f.attrs['version'] = np.array([2, 0], 'i4')", "update kvscope"},
      {"f.attrs['format'] = 'something else'", "not a trace"},
      {"del f['tokens/id']", "/tokens/id: missing"},
      {"del f['layer/01/k']; f['layer/01/k'] = h5py.SoftLink('/layer/00/k')", "found a link"},
      {"del f['layer/01']; f['layer/01'] = h5py.ExternalLink('/etc/passwd', '/')", "found a link"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', (1 << 40,), 'i4', chunks=(1 << 20,))", "promise"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', (1, 45, 8), 'f4')", "expected elements of type f16"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', data=np.zeros((1, 45, 9), 'f2'))", "expected [1, any, 8]"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', data=np.zeros((1, 44, 8), 'f2'))", "one length"},
      {"del f['layer/00/k']; f.create_dataset('layer/00/k', data=np.zeros(5, 'f2'))", "expected 3 dimensions"},
      {"del f['layer/00/k']; f.create_group('layer/00/k')", "expected a data set"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', data=np.zeros(45, '>i4'))", "little endian"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', data=[b'x'] * 45, dtype=h5py.string_dtype())",
       "little endian"},
      {"del f['tokens/id']; f.create_dataset('tokens/id', data=np.zeros(45, 'i4'), compression='lzf', chunks=(45,))",
       "filter"},
      {"f['tokens/piece_offsets'][3] = 1 << 60", "piece_offsets: text"},
      {"f['tokens/piece_offsets'][3] = -1", "piece_offsets: text"},
      {"f['steps/top_offsets'][1] = 99", "top_offsets"},
      {"f['segments/token_begin'][0] = -5", "/segments: entry 0"},
      {"f['layer/00/q_token'][3] = 99", "ascending"},
      {"f['layer/00/rows_token'][4] = 9999", "a row for token 9999"},
      {"f['layer/00/head'][0] = 1", "ascending KV heads"},
      {"f['layer/00'].attrs['heads'] = 1 << 40", "@heads: expected 1 to 65536"},
      {"f['layer/00'].attrs['kv_heads'] = 0", "@kv_heads: expected 1 to 2"},
      {"f['layer/00'].attrs['scale'] = float('nan')", "finite"},
      {"f['layer/00'].attrs['scale'] = 'text'", "expected a number"},
      {"f['layer/00'].attrs['kind'] = 'mla'", "update kvscope"},
      {"f['model'].attrs['layers_recorded'] = np.array([1, 0], 'i4')", "ascending layers"},
      {"f['model'].attrs['kv_dtype'] = 'f8'", "expected f16 or f32"},
      {"f['status'][0] = 77", "/status"},
      {"f['rope'].attrs['sets'] = '../../x'", "is not a name"},
      {"f['rope'].attrs['sets'] = 'x' * 60", "missing"},
  };
  return kCases;
}

std::span<const HarmCase> ColumnHarmCases() {
  static constexpr HarmCase kCases[] = {
      {"del f['layer/00/column_sum']", "column_sum: missing"},
      {"del f['layer/00/column_sum']; f['layer/00/column_sum'] = np.zeros((2, 45), 'f8')", "type f32"},
      {"del f['layer/00/column_sum']; f['layer/00/column_sum'] = np.zeros((3, 45), 'f4')", "expected [2, any]"},
      {"del f['layer/00/column_max']; f['layer/00/column_max'] = np.zeros((2, 44), 'f4')", "one length"},
      {"del f['layer/00/column_max']; f.create_dataset('layer/00/column_max', (2, 1 << 40), 'f4', chunks=(2, 1 << 20))",
       "promise"},
      {"for n in 'column_sum', 'column_max': del f['layer/00/' + n]; f['layer/00/' + n] = np.zeros((2, 46), 'f4')",
       "46 columns for 45 tokens"},
      {"f['layer/00/column_rows'][0] = 46", "expected one number from 0 to 45"},
      {"f['layer/00/column_rows'][0] = -1", "expected one number from 0 to 45"},
      {"f['layer/00/column_sum'][1, 7] = float('nan')", "found nan at token 7"},
      {"f['layer/00/column_max'][0, 3] = -1", "found -1 at token 3"},
  };
  return kCases;
}

std::vector<std::string> WriteHarmedTraces(const TinyShape& shape, std::span<const HarmCase> cases) {
  const std::string whole = TempPath("whole.kvtrace.h5");
  WriteTinyTrace(whole, shape);
  // One Python for all cases: starting it costs more than the edits.
  std::string script = "import sys, shutil, h5py, numpy as np\nwhole = sys.argv[1]\n";
  std::vector<std::string> paths;
  for (const HarmCase& test : cases) {
    paths.push_back(StrCat(whole, ".", paths.size()));
    script += StrCat("path = '", paths.back(), "'\nshutil.copy(whole, path)\nwith h5py.File(path, 'r+') as f:\n    ",
                     test.edit, "\n");
  }
  const CommandResult python = RunPython(script, whole);
  EXPECT_EQ(python.exit_code, 0) << python.output;
  if (python.exit_code != 0) paths.clear();
  return paths;
}

}  // namespace kvscope
