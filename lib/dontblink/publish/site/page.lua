-- What pandoc keeps of an executed notebook: text, maths, code, tables as tables, figures with words, and nothing else.
-- No raw HTML of the data survives: a table is read as a table, a picture comes from an output, an attribute is ours.

-- What is wider than a phone moves sideways on its own, with a keyboard, too.
local function frame(label)
  return { { "role", "group" }, { "tabindex", "0" }, { "aria-label", label } }
end

local function is_safe(address)
  return address:match("^https://") or address:match("^#") or address:match("^[%w_/-]+%.%w+$")
end

local function is_number(text)
  local digits = text:gsub("−", "-"):match("^[-+]?[%d.,]+[eE]?[-+]?%d*%%?$")
  return digits or text:match("^-?inf$") or text:match("^[Nn]a[Nn]$")
end

-- Numbers stand right. Spans shift cells, so columns are counted from the right end of a row.
local function align_numbers(tbl)
  local n, numeric = #tbl.colspecs, {}
  for _, body in ipairs(tbl.bodies) do
    for _, row in ipairs(body.body) do
      local place = n
      for k = #row.cells, 1, -1 do
        local text = pandoc.utils.stringify(row.cells[k].contents)
        if text ~= "" and row.cells[k].col_span == 1 then
          numeric[place] = numeric[place] ~= false and is_number(text) ~= nil
        end
        place = place - row.cells[k].col_span
      end
    end
  end
  for k, spec in ipairs(tbl.colspecs) do
    tbl.colspecs[k] = { numeric[k] and pandoc.AlignRight or pandoc.AlignDefault, nil }
  end
end

-- The numbers of rows that nobody named (a default index) are left out.
local function drop_default_index(tbl)
  local rows = {}
  for _, row in ipairs(tbl.head.rows) do
    if #row.cells == 0 or pandoc.utils.stringify(row.cells[1].contents) ~= "" then return end
    rows[#rows + 1] = row
  end
  for _, body in ipairs(tbl.bodies) do
    for _, row in ipairs(body.body) do
      if #row.cells < #tbl.colspecs or not pandoc.utils.stringify(row.cells[1].contents):match("^%d+$") then return end
      rows[#rows + 1] = row
    end
  end
  for _, row in ipairs(rows) do row.cells:remove(1) end
  for _, body in ipairs(tbl.bodies) do body.row_head_columns = 0 end
  tbl.colspecs:remove(1)
end

-- Of a cell its text and how far it spans: no attribute, link, picture or markup of the data.
local function strip_rows(rows)
  for _, row in ipairs(rows) do
    row.attr = pandoc.Attr()
    for _, cell in ipairs(row.cells) do
      cell.attr = pandoc.Attr()
      cell.contents = { pandoc.Plain(pandoc.Str(pandoc.utils.stringify(cell.contents))) }
    end
  end
end

local function show_table(tbl)
  local classes = tbl.classes:includes("text") and { "scroll", "text" } or { "scroll" }
  tbl.attr, tbl.caption, tbl.head.attr, tbl.foot = pandoc.Attr(), {}, pandoc.Attr(), pandoc.TableFoot()
  strip_rows(tbl.head.rows)
  for _, body in ipairs(tbl.bodies) do
    body.attr = pandoc.Attr()
    strip_rows(body.head)
    strip_rows(body.body)
  end
  drop_default_index(tbl)
  align_numbers(tbl)
  local is_empty = #tbl.bodies == 0 or #tbl.bodies[1].body == 0
  local content = is_empty and { tbl, pandoc.Plain("no rows") } or { tbl }
  return pandoc.Div(content, pandoc.Attr("", classes, frame("table")))
end

local function show_output(div)
  local shown = pandoc.List()
  for _, block in ipairs(div.content) do
    if block.t == "RawBlock" and block.format == "html" then
      pandoc.read(block.text, "html"):walk({ Table = function(e) shown:insert(show_table(e)) end })
    elseif block.t == "CodeBlock" then
      shown:insert(pandoc.CodeBlock(block.text, pandoc.Attr("", { "printed" })))
    elseif block.t == "Para" and #block.content == 1 and block.content[1].t == "Image" then
      local image = block.content[1]
      local words = image.attributes.alt or ""
      image.caption, image.attributes = { pandoc.Str(words) }, {}
      shown:insert(pandoc.Div(pandoc.Plain(image), pandoc.Attr("", { "scroll", "figure" }, frame("figure"))))
    end
  end
  return shown
end

local function show_code(cell, is_open)
  local shown = pandoc.List()
  for _, block in ipairs(cell.content) do
    if block.t == "Div" then
      shown:extend(show_output(block))
    elseif block.t == "CodeBlock" and block.text ~= "" then
      local opened = is_open and " open" or ""
      shown:insert(pandoc.RawBlock("html", '<details class="code"' .. opened .. '><summary>code</summary>'))
      shown:insert(pandoc.CodeBlock(block.text, pandoc.Attr("", { "python" })))
      shown:insert(pandoc.RawBlock("html", "</details>"))
    end
  end
  return shown
end

local function show_text(cell)
  local plain = {
    RawBlock = function(e) return pandoc.Plain(pandoc.Str(e.text)) end,
    RawInline = function(e) return pandoc.Str(e.text) end,
    Image = function(e) return e.caption end,
    Link = function(e)
      if not is_safe(e.target) then return e.content end
      e.attributes = {}
      return e
    end,
    Table = function(e)
      for k, spec in ipairs(e.colspecs) do e.colspecs[k] = { spec[1], nil } end
      return pandoc.Div(e, pandoc.Attr("", { "scroll", "text" }, frame("table"))), false
    end,
  }
  return cell:walk(plain).content
end

function Pandoc(doc)
  local blocks, is_method = pandoc.List(), false  -- the estimator is read, other code unfolds
  for _, cell in ipairs(doc.blocks) do
    for _, block in ipairs(cell.content) do
      if block.t == "Header" and block.level == 2 then
        is_method = pandoc.utils.stringify(block.content):find("^4 The estimator") ~= nil
      end
    end
    blocks:extend(cell.classes:includes("code") and show_code(cell, is_method) or show_text(cell))
  end
  return pandoc.Pandoc(blocks)
end
