// SPDX-License-Identifier: Apache-2.0
// Put before host code that drives a device, it makes that code speak to the emulated twins instead of CUDA's.
#pragma once

#define KVSCOPE_TWIN cuda_emulated
#define KVSCOPE_TWIN_DEVICE ::kvscope::Device::kCpu

#include "kernels/device.h"
#include "tests/support/kernels_emulated.h"
