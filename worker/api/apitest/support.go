// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"encoding/json"
	"time"

	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Support is an api.Supporter with a host on record.
type Support struct{}

var _ api.Supporter = Support{}

// Support implements api.Supporter.
func (Support) Support(_ context.Context, goroutines bool) (v1.Support, error) {
	s := v1.Support{Worker: "w-1", Version: "1.2", Go: "go1.26", At: time.Unix(0, 0).UTC(), Health: v1.Health{Ready: true}, Metrics: "holdfast_up 1\n"}
	if goroutines {
		s.Goroutines = "goroutine profile: total 1\n"
	}
	return s, nil
}

// Records implements api.Supporter.
func (Support) Records(_ context.Context, kind string) ([]v1.Record, error) {
	if kind == "nothing" {
		return nil, v1.BadField("kind", "%q, allowed are hosts", kind)
	}
	return []v1.Record{{Key: "/holdfast/v1/" + kind + "/x", Revision: 3, Value: json.RawMessage(`{"v":1}`)}}, nil
}
