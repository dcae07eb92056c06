// SPDX-License-Identifier: Apache-2.0
// Pixels back from OpenGL; what both shells share.
#pragma once

#include "viewer/image.h"
#include "viewer/shell.h"

namespace kvscope {

// Of the framebuffer that is read from, its lower left corner at (0, 0). Opaque.
Image ReadPixels(int left, int bottom, int width, int height);
// Gives a frame the picture that it asked for, if it did. The sizes are those of the framebuffer that was drawn into.
void ServePictureRequest(Frame& frame, int framebuffer_width, int framebuffer_height);

}  // namespace kvscope
