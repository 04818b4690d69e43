// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
)

// levels records the level and the attributes of what reaches slog.
type levels struct {
	attrs []slog.Attr
	got   *[]map[string]any
}

func (h levels) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelDebug }
func (h levels) WithGroup(string) slog.Handler                { return h }

func (h levels) WithAttrs(a []slog.Attr) slog.Handler {
	return levels{append(h.attrs[:len(h.attrs):len(h.attrs)], a...), h.got}
}

func (h levels) Handle(_ context.Context, r slog.Record) error {
	m := map[string]any{"level": r.Level}
	add := func(a slog.Attr) bool { m[a.Key] = a.Value.Any(); return true }
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	*h.got = append(*h.got, m)
	return nil
}

// The etcd client's retries must not flood an operator's log.
func TestEtcdClientNoiseIsDebug(t *testing.T) {
	var got []map[string]any
	log := newZap(slog.New(levels{got: &got})).With(zap.String("target", "etcd-1"))
	log.Info("connected")
	log.Warn("retrying", zap.Int("attempt", 3))
	log.Error("gave up", zap.Error(errors.New("no quorum")))
	want := []map[string]any{
		{"level": slog.LevelDebug, "component": "etcd-client", "target": "etcd-1"},
		{"level": slog.LevelDebug, "component": "etcd-client", "target": "etcd-1", "attempt": int64(3)},
		{"level": slog.LevelWarn, "component": "etcd-client", "target": "etcd-1", "error": "no quorum"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	quiet := newZap(slog.New(slog.DiscardHandler))
	if quiet.Check(zap.ErrorLevel, "x") != nil {
		t.Error("a discarding logger is asked to format")
	}
}
