#pragma once
// The end of the backbone: final norm, lm_head with its hooks, loss. Logits are never held whole: rows with
// targets are taken in pieces of at most 64 rows of one segment, cut at fixed places of the segment, so that
// a hook on lm_head sees pieces that do not depend on the company; whole pieces of several segments fill a
// chunk of up to 256 rows for one product with the vocabulary. Rows without a target never reach the head.
//
// A chunk goes forward and backward at once: its logits become their own gradient in place. Pieces of
// segments that train come first, as their segments do.
//
// Thread: compute thread. Errors: kExhausted from the device.

#include <vector>

#include "worker/backbone/linear.h"
#include "worker/backbone/norm.h"
#include "worker/pack_rows.h"
#include "worker/rows.h"

namespace coppice {

class Head {
 public:
  Head(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights, const Module& module,
       DType compute);

  const FrozenWeight& weight() const { return projection_.weight(); }
  size_t bytes() const { return norm_.bytes() + projection_.bytes(); }
  // rows [rows, hidden] of the pack. drows: overwritten with the gradient of the rows whose backward reaches
  // the last block (drows.rows of them, zero where a row has no target); empty where there are none.
  std::vector<SegmentLoss> loss(const PackRows& pack, const PackTargets& targets, Matrix rows,
                                bool log_probabilities, Matrix drows) const;
  // After the one row; the pack has one sequence and no backward.
  std::vector<float> logits(const PackRows& pack, Matrix row) const;

 private:
  struct Loss;

  Backend& backend_;
  const BackboneConfig& config_;
  DType compute_;
  Norm norm_;
  Projection projection_;
};

}  // namespace coppice
