// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/tests/proc"
)

// Without any of these flags the tests are the short smoke version.
var (
	long      = flag.Bool("long", false, "the long form: schedules, or pauses, for as long as -for says")
	mode      = flag.String("mode", "faults", "what the long form does: faults, pauses or fencing")
	firstSeed = flag.Uint64("seed", 0, "seed of the first schedule; given alone it is the only one (0: by the clock)")
	seeds     = flag.Int("seeds", 0, "number of schedules, on consecutive seeds (0: as many as fit)")
	duration  = flag.Duration("for", 30*time.Minute, "how long the long form begins new schedules")
	story     = flag.Bool("story", false, "tell all events, also when nothing is wrong")
	pauses    = flag.Int("pauses", 1000, "pauses of workers in mode pauses, at most as long as -for")
)

// TestMain is also what the children of the fleet run.
func TestMain(m *testing.M) {
	proc.Main(m, map[string]proc.Role{
		"member": proc.As(runMember),
		"agent": proc.As(func(ctx context.Context, a world.Agent) error {
			return a.Run(ctx, "chaos", slog.New(slog.NewTextHandler(os.Stderr, nil)))
		}),
		"guest": proc.As(func(ctx context.Context, g world.Guest) error { return g.Run(ctx) }),
	})
}
