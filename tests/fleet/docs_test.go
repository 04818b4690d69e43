// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/sim/fleet"
)

// TestVerbsAreDocumented: docs/simulate.md lists every word of a script as the table of
// verbs has it.
func TestVerbsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/simulate.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range fleet.Verbs() {
		usage := strings.ReplaceAll(v[1], "|", `\|`)
		if usage != "" {
			usage = "`" + usage + "`"
		}
		row := fmt.Sprintf("| `%s` | %s | %s |", v[0], usage, strings.ReplaceAll(v[2], "|", `\|`))
		if !strings.Contains(string(b), row) {
			t.Errorf("docs/simulate.md lacks the row\n%s", row)
		}
	}
}
